import json
import logging

import numpy as np
import pytest
from golden_files import GOLDEN

from odmt.data.sources.amazon import picture_files, read_amazon
from odmt.errors import DataError, MissingDataError

TEXT = "a\tRed pen\nb\tBlue ink\textra large\nc\t\n"


def folder_of(tmp_path, behaviours, text=TEXT, tag="arts"):
    for name, content in (("user_behaviours", behaviours), ("text", text)):
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / f"{tag}_{name}.tsv").write_bytes(raw)
    return tmp_path


def test_columns_of_the_text_are_joined_by_a_blank_and_an_empty_title_is_allowed(tmp_path):
    source = read_amazon(folder_of(tmp_path, "u1\ta b\nu2\tc\n"))
    assert source.catalogue.item_ids == ["a", "b", "c"]
    assert source.catalogue.titles == ["Red pen", "Blue ink extra large", ""]


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
    with pytest.raises(MissingDataError, match="holds no file named"):
        read_amazon(tmp_path)
    folder_of(tmp_path, "u1\ta\n")
    (tmp_path / "arts_text.tsv").rename(tmp_path / "art_text.tsv")
    with pytest.raises(MissingDataError, match=r"arts_text\.tsv: does not exist"):
        read_amazon(tmp_path)
    folder_of(tmp_path, "u1\ta\n", tag="office")
    with pytest.raises(DataError, match="holds 2 files"):
        read_amazon(tmp_path)


def test_a_user_on_two_lines_is_kept_twice_and_warned_about(tmp_path, caplog):
    files = json.loads((GOLDEN / "data_quirk_duplicate_user.json").read_text())["files"]
    with caplog.at_level(logging.WARNING, logger="odmt"):
        source = read_amazon(folder_of(tmp_path, files["behaviors"], files["text"]))
    assert source.interactions.users == ["a", "b", "a", "c", "d"]
    assert "1 users stand on several lines" in caplog.text
    assert "user 'a' at" in caplog.text


def test_pictures_are_found_by_item_id_whatever_their_suffix(tmp_path):
    for name in ("a.jpg", "b.jpeg", "c.png", "d.JPG", "a.png", "e.txt"):
        (tmp_path / name).touch()
    found = picture_files(tmp_path)
    assert sorted(found) == ["a", "b", "c", "d"]
    assert [path.name for path in found["a"]] == ["a.jpg", "a.png"]
    with pytest.raises(MissingDataError, match="is not a folder"):
        picture_files(tmp_path / "nowhere")
