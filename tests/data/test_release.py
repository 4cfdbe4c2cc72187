"""The authors' release in its three dialects: equal to what their code makes of the same files, and strict."""

import json

import numpy as np
import pytest
from golden_files import GOLDEN

from odmt.data.events import Wanted
from odmt.data.sources.forms import find_source
from odmt.data.sources.release import image_key, read_release
from odmt.data.split import development_split, last_item_targets, split_interactions, training_windows
from odmt.errors import DataError, MissingDataError

TEXT = "a\tRed pen\nb\tBlue ink\textra large\nc\t\n"
FILES = {
    "amazon": ("arts_user_behaviours.tsv", "arts_text.tsv"),
    "ks": ("10wu_ks_pairs.tsv", "10wu_ks_title.csv"),
    "hm": ("hm_pick_users_5W.tsv", "hm_pick_items_5W.tsv"),
    "quirk_duplicate_user": ("a_user_behaviours.tsv", "a_text.tsv"),
}


def read_amazon(folder, wanted=None):
    return read_release(find_source(folder), wanted or Wanted(), folder / "work")


def folder_of(tmp_path, behaviours, text=TEXT, tag="arts"):
    for name, content in (("user_behaviours", behaviours), ("text", text)):
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / f"{tag}_{name}.tsv").write_bytes(raw)
    return tmp_path


def test_columns_of_the_text_are_joined_by_a_blank_and_an_empty_title_is_allowed(tmp_path):
    source = read_amazon(folder_of(tmp_path, "u1\ta b\nu2\tc\n"))
    assert source.catalogue.item_ids == ["a", "b", "c"]
    assert source.catalogue.titles == ["Red pen", "Blue ink extra large", ""]
    assert source.notes == {"items with an empty text, kept": 1}


def test_sequences_are_rows_of_the_text_file_in_file_order(tmp_path):
    interactions = read_amazon(folder_of(tmp_path, "u1\tb a b\nu0\tc\n")).interactions
    assert interactions.users == ["u1", "u0"]
    np.testing.assert_array_equal(interactions.offsets, [0, 3, 4])
    np.testing.assert_array_equal(interactions.items, [1, 0, 1, 2])


def test_byte_order_mark_windows_line_ends_and_trailing_blanks_are_tolerated(tmp_path):
    behaviours = b"\xef\xbb\xbfu1\ta  b \r\n\r\nu2\tc\r\n"
    source = read_amazon(folder_of(tmp_path, behaviours, b"\xef\xbb\xbf" + TEXT.replace("\n", " \r\n").encode()))
    assert source.interactions.users == ["u1", "u2"]
    np.testing.assert_array_equal(source.interactions.items, [0, 1, 2])
    assert source.catalogue.titles[0] == "Red pen"


def test_a_title_may_hold_characters_that_splitlines_breaks_at(tmp_path):
    source = read_amazon(folder_of(tmp_path, "u1\ta\n", "a\tRed\u2028pen\x0bset\n"))
    assert source.catalogue.titles == ["Red\u2028pen\x0bset"]


@pytest.mark.parametrize(
    ("behaviours", "text", "sentence"),
    [
        ("u1\ta\nu2 a b\n", TEXT, r"arts_user_behaviours\.tsv:2: has no TAB"),
        (
            "u1\ta\nu2\tb X\n",
            TEXT,
            r"arts_user_behaviours\.tsv:2: item 'X' of user 'u2' has no line in .*arts_text\.tsv",
        ),
        ("", TEXT, r"arts_user_behaviours\.tsv: is empty"),
        ("\n \n", TEXT, r"arts_user_behaviours\.tsv: is empty"),
        ("u1\ta\n\nu2\t \n", TEXT, r"arts_user_behaviours\.tsv:3: user 'u2' has no items"),
        (" \ta\n", TEXT, r"arts_user_behaviours\.tsv:1: has no user"),
        ("u1\ta\n\t\n", TEXT, r"arts_user_behaviours\.tsv:2: has no user"),
        ("u1\ta\n", TEXT + "\t\n", r"arts_text\.tsv:4: has no item id"),
        ("u1\ta\n", "", r"arts_text\.tsv: is empty"),
        ("u1\ta\n", "a\tpen\nb ink\n", r"arts_text\.tsv:2: has no TAB"),
        ("u1\ta\n", "a\tpen\nb\tink\na\tpen\n", r"text\.tsv:3: item 'a' stands here for the second time.*text\.tsv:1"),
        ("u1\ta\n", "a\tpen\n../x\tink\n", r"arts_text\.tsv:2: item id '\.\./x' holds '/'"),
        ("u1\ta\n", "a..b\tink\n", r"arts_text\.tsv:1: item id 'a\.\.b' holds '\.\.'"),
        ("u1\ta\n", "a\0b\tink\n", r"arts_text\.tsv:1: item id 'a\\x00b' holds"),
        ("u1\ta\n", "a b\tink\n", r"arts_text\.tsv:1: item id 'a b' holds a blank"),
        ("u1\ta\n", "x" * 501 + "\tink\n", r"arts_text\.tsv:1: item id .* has 501 bytes"),
        ("u1\ta\n", "\tink\n", r"arts_text\.tsv:1: has no item id"),
        (b"u1\ta\nu2\t\xff\n", TEXT, r"arts_user_behaviours\.tsv:2: is not UTF-8 text \(byte 0xff\)"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_line(tmp_path, behaviours, text, sentence):
    with pytest.raises(DataError, match=sentence):
        read_amazon(folder_of(tmp_path, behaviours, text))


def test_missing_files_are_told_apart_from_malformed_ones(tmp_path):
    with pytest.raises(MissingDataError, match="is not a folder"):
        read_amazon(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match="holds no source that is known"):
        read_amazon(tmp_path)
    folder_of(tmp_path, "u1\ta\n")
    (tmp_path / "arts_text.tsv").rename(tmp_path / "art_text.tsv")
    with pytest.raises(MissingDataError, match=r"arts_text\.tsv: does not exist"):
        read_amazon(tmp_path)
    folder_of(tmp_path, "u1\ta\n", tag="office")
    with pytest.raises(DataError, match="holds 2 files"):
        read_amazon(tmp_path)


def golden_source(name, folder):
    files = json.loads((GOLDEN / f"data_{name}.json").read_text())["files"]
    for file, key in zip(FILES[name], ("behaviors", "text"), strict=True):
        (folder / file).write_text(files[key])
    if name == "hm":
        (folder / "hm_image_20W.lmdb").touch()
    return find_source(folder)


def test_a_user_on_two_lines_is_kept_twice_and_counted(tmp_path):
    source = read_release(golden_source("quirk_duplicate_user", tmp_path), Wanted(), tmp_path)
    assert source.interactions.users == ["a", "b", "a", "c", "d"]
    assert source.notes == {"lines of a user who stands on an earlier line; the last one counts": 1}


@pytest.mark.parametrize("name", FILES)
def test_every_dialect_gives_the_authors_ids_splits_and_titles(name, tmp_path):
    golden = json.loads((GOLDEN / f"data_{name}.json").read_text())
    expected, settings = golden["expected"], golden["settings"]
    found = golden_source(name, tmp_path)
    source = read_release(found, Wanted(), tmp_path)
    full = split_interactions(source.interactions, settings["max_seq_len"], settings["min_seq_len"])
    ids = [source.catalogue.item_ids[row] for row in full.item_rows]
    assert [None, *ids] == expected["item_names_by_id"]
    development = development_split(full)
    assert [[item for item in row if item] for row in training_windows(development).tolist()] == expected["users_train"]
    assert last_item_targets(full.offsets, full.items).target.tolist() == [row[-1] for row in expected["users_test"]]
    titles = [title.lower().split() for title in source.catalogue.titles]
    assert titles == [title.split() for title in expected["tokenizer_input"]]


@pytest.mark.parametrize("name", ["amazon", "ks", "hm"])
def test_every_dialect_finds_pictures_under_the_authors_keys(name, tmp_path):
    expected = json.loads((GOLDEN / f"data_{name}.json").read_text())["expected"]
    numbered = golden_source(name, tmp_path).pictures.numbered
    keys = {name: key["bytes"] if isinstance(key, dict) else key for name, key in expected["item_id_to_keys"].items()}
    found = {
        str(place): image_key(item, numbered).decode()
        for place, item in enumerate(expected["item_names_by_id"])
        if item
    }
    assert found == keys


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("ks", "1 pen\n", r"10wu_ks_title\.csv:1: has no comma; expected: item,title"),
        ("hm", "v1\tpen\textra\n", r"hm_pick_items_5W\.tsv:1: has 3 columns; expected two"),
        ("hm", "v1\n", r"hm_pick_items_5W\.tsv:1: has 1 columns; expected two"),
        ("hm", "x1\tpen\n", r"hm_pick_items_5W\.tsv:1: item id 'x1' is not v and digits"),
    ],
)
def test_a_malformed_line_of_the_other_dialects_is_named(name, text, sentence, tmp_path):
    found = golden_source(name, tmp_path)
    found.files["text"].write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_release(found, Wanted(), tmp_path)


def test_the_release_is_taken_as_it_is_unless_less_is_wanted(tmp_path):
    folder = folder_of(tmp_path, "u1\ta b\nu2\tb b\nu3\tc\n")
    assert len(read_amazon(folder).interactions.users) == 3
    source = read_amazon(folder, Wanted(min_user=2, min_item=2))
    assert source.interactions.users == ["u2"]  # a has one interaction, so u1 has but one left
    assert source.notes == {"interactions outside the selection": 3, "items with an empty text, kept": 1}
    assert source.catalogue.item_ids == ["a", "b", "c"]
