import gzip
import json

import pytest

from odmt.data.events import Wanted
from odmt.data.sources.amazon_2018 import find, item_text, picture_urls, read
from odmt.errors import DataError

ALL = Wanted(1, 1, None, 1)


def review(user, item, day):
    return {"reviewerID": user, "asin": item, "unixReviewTime": day, "reviewText": "long " * 20}


def meta(item, **values):
    return {"asin": item, "title": f"Title {item}", "brand": "Acme", "category": ["Arts"], **values}


def folder_of(tmp_path, reviews, metas, name="Arts_5.json.gz"):
    for path, objects in ((tmp_path / name, reviews), (tmp_path / "meta_Arts.json.gz", metas)):
        lines = [value if isinstance(value, str) else json.dumps(value) for value in objects]
        path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return tmp_path


def sequences(source):
    ids = source.catalogue.item_ids
    bounds = zip(source.interactions.users, source.interactions.offsets, source.interactions.offsets[1:], strict=False)
    return {user: [ids[row] for row in source.interactions.items[start:end]] for user, start, end in bounds}


def test_reviews_become_sequences_in_the_order_of_time(tmp_path):
    reviews = [review("u", "B", 3), review("v", "A", 5), review("u", "A", 1), review("u", "C", 2)]
    source = read(find(folder_of(tmp_path, reviews, [meta(item) for item in "CBA"])), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["A", "C", "B"], "v": ["A"]}
    assert source.catalogue.titles == ["Title A Arts Acme", "Title B Arts Acme", "Title C Arts Acme"]


def test_the_core_is_taken_again_once_items_without_metadata_have_gone(tmp_path):
    # v has two interactions only with B, which has no metadata; without v, C has but one.
    reviews = [review("u", "A", 1), review("w", "A", 2), review("u", "D", 3), review("w", "D", 4)]
    reviews += [review("v", "B", 1), review("v", "C", 2), review("u", "B", 3), review("u", "C", 4)]
    found = find(folder_of(tmp_path, reviews, [meta(item) for item in "ACD"]))
    source = read(found, Wanted(2, 2, None, 1), tmp_path / "work")
    assert sequences(source) == {"u": ["A", "D"], "w": ["A", "D"]}
    assert source.notes == {
        "items without metadata": 1,
        "interactions with such items": 2,
        "interactions outside the core or the drawn users": 2,
    }


def test_what_is_told_twice_counts_once(tmp_path):
    reviews = [review("u", "A", 1), review("u", "A", 1), review("u", "A", 2)]
    metas = [meta("A"), meta("A", title="Another")]
    source = read(find(folder_of(tmp_path, reviews, metas)), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["A", "A"]}
    assert source.catalogue.titles == ["Title A Arts Acme"]
    assert source.notes == {
        "reviews told twice (same user, item and time)": 1,
        "items whose metadata is told again; the first counts": 1,
    }


def test_a_few_damaged_lines_are_counted_with_the_first(tmp_path):
    reviews = [review("u", "A", 1), '{"reviewerID": "u", "asin"', "[1, 2]", {"asin": "A"}, review("u", "A", 2)]
    source = read(find(folder_of(tmp_path, reviews, [meta("A"), '{"x'])), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["A", "A"]}
    first, second = source.notes
    assert first.startswith("damaged lines, the first: ")
    assert "Arts_5.json.gz:2: is not JSON" in first
    assert "meta_Arts.json.gz:2: is not JSON" in second
    assert list(source.notes.values()) == [3, 1]


@pytest.mark.parametrize("time", [True, 2**64 - 1, 1.5, "1", None])
def test_a_time_that_is_none_is_a_damaged_line(time, tmp_path):
    reviews = [review("u", "A", 1), {"reviewerID": "u", "asin": "A", "unixReviewTime": time}]
    source = read(find(folder_of(tmp_path, reviews, [meta("A")])), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["A"]}
    assert list(source.notes.values()) == [1]


@pytest.mark.parametrize("lines", [["<html>"], []])
def test_a_file_without_a_line_that_means_anything_is_named(lines, tmp_path):
    with pytest.raises(DataError, match=r"Arts_5\.json\.gz.*: the file holds no line that means anything"):
        read(find(folder_of(tmp_path, lines, [meta("A")])), ALL, tmp_path / "work")


def test_files_that_do_not_belong_together_are_told(tmp_path):
    with pytest.raises(DataError, match="all 1 items of the interactions are items without metadata: the files do not"):
        read(find(folder_of(tmp_path, [review("u", "A", 1)], [meta("B")])), ALL, tmp_path / "work")


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"Arts_5\.json\.gz:1: is not JSON .*; 50 of the first 50 lines are like that"):
        read(find(folder_of(tmp_path, ["<html>"] * 50, [])), ALL, tmp_path / "work")


def test_a_file_that_is_cut_off_is_named(tmp_path):
    folder = folder_of(tmp_path, [review(f"u{n}", "A", n) for n in range(500)], [meta("A")])
    whole = (folder / "Arts_5.json.gz").read_bytes()
    (folder / "Arts_5.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"Arts_5\.json\.gz: is cut off or damaged after line \d+ .*download it again"):
        read(find(folder), ALL, tmp_path / "work")


def test_an_item_id_that_no_file_may_have_is_refused(tmp_path):
    folder = folder_of(tmp_path, [review("u", "../../etc/passwd", 1)], [meta("../../etc/passwd")])
    with pytest.raises(DataError, match=r"Arts_5\.json\.gz: item id '\.\./\.\./etc/passwd' holds '/'"):
        read(find(folder), ALL, tmp_path / "work")


def test_the_smaller_file_of_reviews_is_taken_and_a_plain_one_too(tmp_path):
    folder = folder_of(tmp_path, [review("u", "A", 1)], [meta("A")], name="Arts.json.gz")
    assert find(folder).files["reviews"].name == "Arts.json.gz"
    (folder / "Arts_5.json").write_text(json.dumps(review("v", "A", 1)))
    found = find(folder)
    assert found.files["reviews"].name == "Arts_5.json"
    assert sequences(read(found, ALL, tmp_path / "work")) == {"v": ["A"]}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"title": "A &amp; B", "category": ["X", "Y"], "brand": "Z"}, "A & B X Y Z"),
        ({"title": "<b>Bold</b>  pen\n", "category": [], "brand": ""}, "Bold pen"),
        ({"title": "Cable &lt; 3 m, tips &gt; 5 mm black"}, "Cable < 3 m, tips > 5 mm black"),
        ({"title": 'var aPageStart = (new Date()).getTime();', "category": ["X"], "brand": None}, "X"),
        ({}, ""),
        ({"title": 5, "category": "X", "brand": ["Z"]}, ""),
    ],
)  # fmt: skip
def test_the_text_of_an_item_is_title_category_and_brand(given, text):
    assert item_text(given) == text


def test_pictures_are_asked_for_at_full_size_large_ones_first():
    given = {
        "imageURL": ["https://x/images/I/51abc._SS40_.jpg", "https://x/images/I/52.jpg"],
        "imageURLHighRes": ["https://x/images/I/51abc.jpg", "https://x/images/I/53._SR38,50_.jpg"],
    }
    assert picture_urls(given) == [
        "https://x/images/I/51abc.jpg", "https://x/images/I/53.jpg", "https://x/images/I/52.jpg"
    ]  # fmt: skip
    assert picture_urls({"imageURL": None, "imageURLHighRes": [3, " "]}) == []


def test_addresses_come_with_their_items(tmp_path):
    folder = folder_of(tmp_path, [review("u", "A", 1)], [meta("A", imageURLHighRes=["http://x/a.jpg"]), meta("B")])
    assert read(find(folder), ALL, tmp_path / "work").urls == {"A": ["http://x/a.jpg"]}
