import pytest

from odmt.data.events import Wanted
from odmt.data.sources.microlens import find, read
from odmt.errors import DataError

ALL = Wanted(1, 1, None, 1)
TITLES = "1,One, two\n2,Two\n3,\n"


def folder_of(tmp_path, pairs, titles=TITLES, kind="csv"):
    (tmp_path / f"M_pairs.{kind}").write_text(pairs, newline="")
    (tmp_path / "M_title_en.csv").write_text(titles, newline="")
    return tmp_path


def sequences(source):
    ids = source.catalogue.item_ids
    bounds = zip(source.interactions.users, source.interactions.offsets, source.interactions.offsets[1:], strict=False)
    return {user: [ids[row] for row in source.interactions.items[start:end]] for user, start, end in bounds}


@pytest.mark.parametrize("header", ["user,item,timestamp", "userID,videoID,timestamp"])
def test_pairs_with_times_become_sequences(header, tmp_path):
    pairs = f"{header}\n7,2,1500000000300\n7,1,1500000000100\n8,3,5.5\n"
    source = read(find(folder_of(tmp_path, pairs)), ALL, tmp_path / "work")
    assert sequences(source) == {"7": ["1", "2"], "8": ["3"]}
    assert source.catalogue.titles == ["One, two", "Two", ""]
    assert source.notes == {"items with an empty text, kept": 1}


def test_pairs_without_times_keep_the_order_of_the_line(tmp_path):
    source = read(find(folder_of(tmp_path, "7\t2 1 2\n8\t3\n", kind="tsv")), ALL, tmp_path / "work")
    assert sequences(source) == {"7": ["2", "1", "2"], "8": ["3"]}


def test_of_both_kinds_of_pairs_the_one_with_times_counts(tmp_path):
    folder_of(tmp_path, "7\t2 1\n", kind="tsv")
    assert find(folder_of(tmp_path, "user,item,timestamp\n7,1,1\n")).files["pairs"].name == "M_pairs.csv"


@pytest.mark.parametrize(
    ("titles", "expected"),
    [
        ("item,title\n1,One\n", "One"),
        ('"1","One"\n', "One"),
        ('1,"One, ""two"""\n', 'One, "two"'),
        ('1,"\n', '"'),
        ("\ufeff1,One\r\n", "One"),
        ("1,\u7ea2\u8272\u94a2\u7b14\n", "\u7ea2\u8272\u94a2\u7b14"),
    ],
)
def test_titles_are_read_with_and_without_header_and_quotes(titles, expected, tmp_path):
    source = read(find(folder_of(tmp_path, "user,item,timestamp\n7,1,1\n", titles)), ALL, tmp_path / "work")
    assert source.catalogue.titles == [expected]


def test_items_without_a_line_in_the_titles_go_and_repeated_lines_are_counted(tmp_path):
    pairs = "user,item,timestamp\n7,1,1\n7,9,2\n7,1,1\n"
    source = read(find(folder_of(tmp_path, pairs, "1,One\n1,Again\n")), ALL, tmp_path / "work")
    assert sequences(source) == {"7": ["1"]}
    assert source.catalogue.titles == ["One"]
    assert source.notes == {
        "further lines of items in M_title_en.csv; the first counts": 1,
        "pairs told twice (same user, item and time)": 1,
        "items without a line in M_title_en.csv": 1,
        "interactions with such items": 1,
    }


@pytest.mark.parametrize(
    ("pairs", "titles", "sentence"),
    [
        (
            "user,thing,timestamp\n",
            TITLES,
            r"M_pairs\.csv:1: has no column item or videoid .*; its columns are user, thing",
        ),
        ("user,item,timestamp\n7,1,1\n", "", r"M_title_en\.csv: is empty"),
        ("user,item,timestamp\n7,1,1\n", "item,title\n1\n", r"M_title_en\.csv:2: has no comma; expected: item,title"),
        ("user,item,timestamp\n7,1,1\n", "a/b,x\n", r"M_title_en\.csv:1: item id 'a/b' holds '/'"),
        ("user,item,timestamp\n", TITLES, r"M_pairs\.csv: the file holds no line that means anything"),
        (
            "user,item,timestamp\n7,9,1\n",
            TITLES,
            "all 1 items of the interactions are items without a line in M_title_en",
        ),
    ],
)
def test_malformed_files_are_refused(pairs, titles, sentence, tmp_path):
    with pytest.raises(DataError, match=sentence):
        read(find(folder_of(tmp_path, pairs, titles)), ALL, tmp_path / "work")


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ("7\t1\n8 1\n", r"M_pairs\.tsv:2: has no TAB or no user"),
        ("7\t1\n8\t\n", r"M_pairs\.tsv:2: user '8' has no items"),
        ("", r"M_pairs\.tsv: is empty"),
    ],
)
def test_malformed_sequences_are_refused_with_the_line(pairs, sentence, tmp_path):
    with pytest.raises(DataError, match=sentence):
        read(find(folder_of(tmp_path, pairs, kind="tsv")), ALL, tmp_path / "work")


def test_of_a_user_on_two_lines_the_last_counts_and_that_is_told(tmp_path):
    source = read(find(folder_of(tmp_path, "7\t1 2\n8\t3\n7\t2 3\n", kind="tsv")), ALL, tmp_path / "work")
    assert sequences(source) == {"7": ["2", "3"], "8": ["3"]}
    assert source.notes["lines of a user who stands on a later line too; the last one counts"] == 1


def test_a_time_beyond_all_clocks_is_a_damaged_line(tmp_path):
    pairs = f"user,item,timestamp\n7,1,1\n7,2,{'9' * 26}\n"
    assert sequences(read(find(folder_of(tmp_path, pairs)), ALL, tmp_path / "work")) == {"7": ["1"]}
