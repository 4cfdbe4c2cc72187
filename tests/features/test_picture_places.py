"""Where an item's picture is taken from, when there are several places, or none."""

import pickle

import numpy as np
import pytest
from corpora import write_legacy_lmdb

from odmt.data.sources.common import Pictures
from odmt.errors import DataError, MissingDataError
from odmt.features.picture_places import content_of, locate, picture_files
from odmt.features.pictures import decode

RED = np.full((2, 2, 3), (255, 0, 0), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"a")
    (tmp_path / "images" / "b.PNG").write_bytes(b"b")
    (tmp_path / "images" / "notes.txt").write_bytes(b"no picture")
    return tmp_path


def test_a_folder_gives_each_item_the_file_of_its_name(folder):
    located = locate(Pictures(folder=str(folder / "images")), ["a", "b", "notes"], {})
    assert {item: content_of(place) for item, place in located.places.items()} == {"a": b"a", "b": b"b"}
    assert located.reasons == {"notes": "has no picture"}


def test_nested_folders_are_searched_only_where_they_should_be(folder):
    (folder / "images" / "010").mkdir()
    (folder / "images" / "010" / "0108775015.jpg").write_bytes(b"nested")
    assert list(picture_files(folder / "images", nested=True)) == ["0108775015"]
    assert "0108775015" not in picture_files(folder / "images")


def test_the_folder_comes_before_the_lmdb_and_both_before_what_was_fetched(folder):
    write_legacy_lmdb(folder / "x.lmdb", {b"a": RED, b"c": RED})
    (folder / "fetched.jpg").write_bytes(b"fetched")
    pictures = Pictures(folder=str(folder / "images"), lmdb=str(folder / "x.lmdb"))
    fetched = {item: [folder / "fetched.jpg"] for item in "acd"}
    located = locate(pictures, "acde", fetched)
    assert content_of(located.places["a"]) == b"a"
    assert np.asarray(decode(content_of(located.places["c"])))[0, 0].tolist() == [255, 0, 0]
    assert content_of(located.places["d"]) == b"fetched"
    assert located.reasons == {"e": "has no picture"}


def test_numbered_keys_are_the_integers_behind_the_v(folder):
    write_legacy_lmdb(folder / "x.lmdb", {b"77": RED})
    located = locate(Pictures(lmdb=str(folder / "x.lmdb"), numbered=True), ["v0000077", "v0000078"], {})
    assert located.places["v0000077"].key == b"77"
    assert list(located.reasons) == ["v0000078"]


def test_items_that_the_authors_did_not_list_have_no_picture(folder):
    (folder / "arts_valid_item_id.pkl").write_bytes(pickle.dumps(["a"]))
    pictures = Pictures(folder=str(folder / "images"), listed=str(folder / "arts_valid_item_id.pkl"))
    located = locate(pictures, ["a", "b"], {})
    assert list(located.places) == ["a"]
    assert located.reasons == {"b": "is not listed in arts_valid_item_id.pkl"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pickle.dumps({"a": 1}), "holds a dict of other things than item ids; expected a list of them"),
        (pickle.dumps([1, 2]), "holds a list of other things"),
        (pickle.dumps(print), "is not a pickle that is safe to read"),
    ],
)
def test_a_list_that_is_none_is_refused(content, sentence, folder):
    (folder / "v.pkl").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        locate(Pictures(listed=str(folder / "v.pkl")), ["a"], {})


def test_a_link_to_nowhere_is_a_reason(folder):
    (folder / "images" / "dangling.png").symlink_to(folder / "nowhere.png")
    found = locate(Pictures(folder=str(folder / "images")), ["dangling"], {})
    assert found.reasons == {"dangling": "has a picture that cannot be read: dangling.png: No such file or directory"}


def test_a_stamp_changes_with_the_file(folder):
    pictures = Pictures(folder=str(folder / "images"))
    before = locate(pictures, ["a"], {}).places["a"].stamp
    assert locate(pictures, ["a"], {}).places["a"].stamp == before
    (folder / "images" / "a.jpg").write_bytes(b"aa")
    assert locate(pictures, ["a"], {}).places["a"].stamp != before


def test_a_folder_that_has_gone_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="images: is not a folder"):
        locate(Pictures(folder=str(tmp_path / "images")), ["a"], {})


def test_a_file_that_cannot_be_read_is_told(folder):
    place = locate(Pictures(folder=str(folder / "images")), ["a"], {}).places["a"]
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        content_of(place)
