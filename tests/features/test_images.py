"""The image store: what is kept, what is found bad, what becomes of it, and that nothing is done twice."""

import hashlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.data.interactions import Catalogue
from odmt.data.sources.common import Pictures
from odmt.errors import DataError, FeatureStoreError, MissingDataError
from odmt.features import image_import
from odmt.features.image_import import fill_image_store
from odmt.features.images import (
    BLANK_DIGEST,
    blank_picture,
    digest_of,
    encoded_pictures,
    image_digests,
    open_images,
    read_entries,
)
from odmt.features.picture_places import locate
from odmt.features.pictures import decode
from odmt.features.records import RecordFile
from odmt.features.store import items_digest
from odmt.home import Home


def png(colour, size=(4, 3), mode="RGB"):
    return encoded(Image.new(mode, size, colour), "PNG")


def encoded(image, kind, **options):
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue"), ("unused", "green")):
        (folder / f"{name}.png").write_bytes(png(colour))
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "arts"
    folder.mkdir()
    return folder


def fill(data, pictures, items=("a", "b"), policy="fail", **options):
    return fill_image_store(data, list(items), locate(Pictures(folder=str(pictures)), items, {}), policy, **options)


def stored(data, items):
    digests = image_digests(data)
    with open_images(data) as store, store.view() as view:
        return encoded_pictures(view, store.path, items, digests)


def test_the_encoded_bytes_are_kept_verbatim_of_needed_items_only(data, pictures):
    assert fill(data, pictures) == (2, {}, 2, True)
    assert image_digests(data) == {"a": digest_of(png("red")), "b": digest_of(png("blue"))}
    assert stored(data, ["b", "a"]) == [png("blue"), png("red")]
    with pytest.raises(FeatureStoreError, match="holds no picture of item 'unused'"):
        stored(data, ["unused"])


def test_nothing_is_read_or_written_when_nothing_changed(data, pictures, monkeypatch):
    fill(data, pictures)
    before = (data / "images.lmdb").stat().st_mtime_ns
    monkeypatch.setattr(image_import, "_read_picture", lambda place: pytest.fail(f"read {place}"))
    assert fill(data, pictures) == (2, {}, 0, False)
    assert (data / "images.lmdb").stat().st_mtime_ns == before


def test_only_a_changed_picture_is_read_again(data, pictures):
    fill(data, pictures)
    (pictures / "a.png").write_bytes(png("black"))
    assert fill(data, pictures) == (2, {}, 1, True)
    assert image_digests(data) == {"a": digest_of(png("black")), "b": digest_of(png("blue"))}


def test_a_run_that_was_stopped_goes_on_after_its_last_batch(data, tmp_path, monkeypatch):
    monkeypatch.setattr(image_import, "BATCH_ITEMS", 4)
    folder = tmp_path / "many"
    folder.mkdir()
    items = [f"i{number:02d}" for number in range(20)]
    for number, item in enumerate(items):
        (folder / f"{item}.png").write_bytes(png((number, 0, 0)))
    read, seen = image_import._read_picture, []

    def breaking(place):
        if len(seen) == 10:
            raise KeyboardInterrupt
        seen.append(place.path)
        return read(place)

    monkeypatch.setattr(image_import, "_read_picture", breaking)
    with pytest.raises(KeyboardInterrupt):
        fill(data, folder, items)
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: is not finished; run: .*--dataset arts"):
        image_digests(data)
    monkeypatch.setattr(image_import, "_read_picture", read)
    assert fill(data, folder, items).read == 20 - 8
    assert stored(data, items) == [(folder / f"{item}.png").read_bytes() for item in items]


def test_other_processes_give_the_same_store(data, tmp_path, pictures):
    (pictures / "c.png").write_bytes(b"broken")
    other = tmp_path / "office"
    other.mkdir()
    results = [fill(folder, pictures, "abc", "drop", workers=count) for folder, count in ((data, 0), (other, 2))]
    assert results[0] == results[1]
    assert stored(other, ["a", "b"]) == stored(data, ["a", "b"])


def test_every_bad_picture_is_listed_and_whole_ones_are_kept(data, pictures):
    (pictures / "c.png").write_bytes(png("red", (99, 99))[:150])
    (pictures / "b.jpg").write_bytes(png("red"))
    (pictures / "e.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"b.*has 2 pictures: b\.jpg, b\.png; 4 of 5 items .*bad_images\.tsv") as caught:
        fill(data, pictures, "abcde")
    assert "prepare.missing_images=drop" in str(caught.value)
    rows = [line.split("\t") for line in (data / "bad_images.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["b", "c", "d", "e"]
    assert [row[2].split("(")[0].strip() for row in rows] == [
        "has 2 pictures: b.jpg, b.png", "cannot be decoded", "has no picture", "is no JPEG, PNG, WEBP, GIF, BMP picture"
    ]  # fmt: skip
    with open_images(data) as store:
        assert read_entries(store)["a"].digest == digest_of(png("red"))
    with pytest.raises(FeatureStoreError, match="is not finished"):
        image_digests(data)


def test_the_list_of_bad_pictures_goes_when_they_are_repaired(data, pictures):
    with pytest.raises(DataError, match=r"item 'c' has no picture; 1 of 2 items are like that, listed in"):
        fill(data, pictures, "ac")
    (pictures / "c.png").write_bytes(png("white"))
    assert fill(data, pictures, "ac").read == 1
    assert [path.name for path in data.iterdir() if "lock" not in path.name] == ["images.lmdb"]


def test_items_without_a_picture_may_go_or_have_a_grey_one(data, pictures):
    dropped = fill(data, pictures, "abc", "drop")
    assert dropped == (2, {"c": "has no picture"}, 2, True)
    assert set(image_digests(data)) == {"a", "b"}
    blank = fill(data, pictures, "abc", "blank")
    assert blank == (2, {"c": "has no picture"}, 0, True)
    assert image_digests(data)["c"] == BLANK_DIGEST
    assert stored(data, ["c"]) == [blank_picture()]
    assert np.unique(np.asarray(decode(blank_picture()))).tolist() == [128]
    with pytest.raises(DataError, match="item 'c' has no picture"):
        fill(data, pictures, "abc", "fail")


def test_a_picture_that_arrives_later_replaces_the_grey_one(data, pictures):
    fill(data, pictures, "abc", "blank")
    (pictures / "c.png").write_bytes(png("white"))
    assert fill(data, pictures, "abc", "blank") == (3, {}, 1, True)
    assert stored(data, ["c"]) == [png("white")]


def test_a_picture_that_breaks_later_is_no_longer_there(data, pictures):
    fill(data, pictures)
    (pictures / "a.png").write_bytes(b"broken")
    assert fill(data, pictures, policy="drop").bad == {"a": "is no JPEG, PNG, WEBP, GIF, BMP picture"}
    with RecordFile(data / "images.lmdb") as store, store.view() as view:
        assert view.get("a") is None


def test_items_that_are_no_longer_needed_are_forgotten(data, pictures):
    fill(data, pictures)
    assert fill(data, pictures, "b").changed
    with RecordFile(data / "images.lmdb") as store, store.view() as view:
        assert view.get("a") is None
    assert set(image_digests(data)) == {"b"}


def test_a_whole_store_stays_whole_when_items_that_came_later_are_refused(data, pictures):
    fill(data, pictures)
    with pytest.raises(DataError, match="1 of 2 items are like that"):
        fill(data, pictures, "bc")
    assert stored(data, ["a", "b"]) == [png("red"), png("blue")]


def test_a_picture_that_broke_or_went_is_kept_as_long_as_that_is_refused(data, pictures):
    fill(data, pictures)
    (pictures / "a.png").write_bytes(b"broken")
    (pictures / "b.png").unlink()
    for policy in ("fail", "drop"):
        with pytest.raises(DataError, match="2 of 2 items are like that"):
            fill(data, pictures, policy=policy)
        assert stored(data, ["a", "b"]) == [png("red"), png("blue")]


def test_a_whole_store_stays_whole_when_its_filling_is_stopped(data, pictures, monkeypatch):
    def stopped(place):
        raise KeyboardInterrupt

    fill(data, pictures)
    (pictures / "a.png").write_bytes(png("black"))
    monkeypatch.setattr(image_import, "_read_picture", stopped)
    with pytest.raises(KeyboardInterrupt):
        fill(data, pictures, "abc")
    assert stored(data, ["a", "b"]) == [png("red"), png("blue")]


@pytest.mark.parametrize("policy", ["fail", "drop", "blank"])
def test_not_one_whole_picture_stops_whatever_the_policy(policy, data, pictures):
    with pytest.raises(DataError, match=r"2 of 2 items are like that, .*: no item has a whole picture"):
        fill(data, pictures, "cd", policy)


def test_a_disk_that_is_too_small_is_told_before_anything_is_read(data, pictures, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(image_import, "_read_picture", lambda place: pytest.fail("read"))
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: needs 0\.0 MB more and .* has 0\.0 MB free; free some"):
        fill(data, pictures)


def test_an_unreadable_store_is_named_with_what_to_do(data, pictures):
    for use in (image_digests, open_images):
        with pytest.raises(MissingDataError, match=r"images\.lmdb: does not exist; run: .*--dataset arts"):
            use(data)
    (data / "images.lmdb").write_bytes(b"junk" * 4096)
    uses = (lambda: image_digests(data), lambda: fill(data, pictures))
    for use in uses:
        with pytest.raises(FeatureStoreError, match=r"images\.lmdb: is not a readable LMDB.*delete it and run: .*arts"):
            use()
    (data / "images.lmdb").unlink()
    with RecordFile(data / "images.lmdb", write=True) as store:
        store.write({}, {"format": "odmt-images-1"})
    for use in uses:
        with pytest.raises(FeatureStoreError, match="has format 'odmt-images-1', expected 'odmt-images-2'; delete it"):
            use()


@pytest.mark.parametrize("content", ["no bytes", "no records"])
def test_a_store_that_was_opened_and_never_written_counts_as_none(content, data, pictures):
    if content == "no bytes":
        (data / "images.lmdb").touch()
    else:
        RecordFile(data / "images.lmdb", write=True).close()
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: is empty; delete it and run"):
        image_digests(data)
    assert fill(data, pictures).read == 2


def test_a_changed_picture_changes_the_digest_of_the_items_that_need_it_only(tmp_path, pictures):
    home, catalogue, rows = Home(tmp_path), Catalogue(["a", "unused", "b"], ["A", "U", "B"]), np.array([0, 2])
    image, text = ImageEncoderConfig(), TextEncoderConfig()
    with pytest.raises(MissingDataError, match=r"images\.lmdb: does not exist; run: .*--dataset arts --source DIR"):
        items_digest(home, "arts", image, catalogue, rows)
    home.dataset("arts").mkdir(parents=True)
    fill(home.dataset("arts"), pictures, ("a", "b", "unused"))
    pictured, titled = (items_digest(home, "arts", encoder, catalogue, rows) for encoder in (image, text))
    assert pictured == hashlib.sha256(digest_of(png("red")) + digest_of(png("blue"))).hexdigest()[:16]
    assert titled == hashlib.sha256(digest_of(b"A") + digest_of(b"B")).hexdigest()[:16]

    (pictures / "unused.png").write_bytes(png("white"))
    fill(home.dataset("arts"), pictures, ("a", "b", "unused"))
    other_title = catalogue._replace(titles=["A", "Other", "B"])
    assert items_digest(home, "arts", image, other_title, rows) == pictured
    assert items_digest(home, "arts", text, other_title, rows) == titled

    (pictures / "b.png").write_bytes(png("black"))
    fill(home.dataset("arts"), pictures, ("a", "b", "unused"))
    assert items_digest(home, "arts", image, catalogue, rows) != pictured
    assert items_digest(home, "arts", text, catalogue._replace(titles=["A", "U", "New"]), rows) != titled
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: holds no picture of item 'c'; run: "):
        items_digest(home, "arts", image, Catalogue(["c"], ["C"]), np.array([0]))
