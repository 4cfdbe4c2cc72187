import numpy as np
import pytest

from odmt.data.imported import ImportRecord, is_whole, read_import, read_record, stamps, write_import
from odmt.data.interactions import Catalogue, Interactions
from odmt.data.sources.common import Found, Pictures, Source
from odmt.errors import DataError, MissingDataError

SOURCE = Source(
    Interactions(["u", "v"], np.array([0, 2, 3]), np.array([1, 0, 1], dtype=np.int32)),
    Catalogue(["a", "b"], ["A", "Bé"]),
    {"a": ["http://x/a.jpg", "http://y/a.jpg"], "b": []},
    {"reviews told twice": 3},
)
PICTURES = Pictures(folder="/somewhere/images", nested=True)
RECORD = ImportRecord(
    "/somewhere", "amazon-2018", {"x.gz": [5, 6]}, [5, 5, None, 1], [5, 5], PICTURES, SOURCE.notes, ""
)


@pytest.fixture
def folder(tmp_path):
    write_import(tmp_path / "arts", SOURCE, RECORD)
    return tmp_path / "arts"


def test_an_import_reads_back_with_addresses_and_where_it_came_from(folder):
    imported = read_import(folder)
    assert imported.catalogue == SOURCE.catalogue
    assert imported.interactions.users == ["u", "v"]
    np.testing.assert_array_equal(imported.interactions.items, [1, 0, 1])
    assert imported.urls == SOURCE.urls
    assert imported.record._replace(digest="") == RECORD
    assert is_whole(folder, imported.record)


def test_a_second_import_without_addresses_leaves_none(folder):
    write_import(folder, SOURCE._replace(urls=None), RECORD)
    assert read_import(folder).urls == {}


def test_without_an_import_there_is_no_record(tmp_path):
    assert read_record(tmp_path) is None
    with pytest.raises(MissingDataError, match="has never been imported"):
        read_import(tmp_path / "arts")


def test_an_import_that_was_cut_off_counts_as_none(folder):
    (folder / "imported" / "import.json").unlink()
    assert read_record(folder) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other"}', '{"format": "odmt-import-1"}'])
def test_a_damaged_record_is_named(content, folder):
    (folder / "imported" / "import.json").write_text(content)
    with pytest.raises(DataError, match=r"imported/import\.json: is damaged .*with --source DIR"):
        read_record(folder)


def test_a_damaged_table_is_named_with_the_command(folder):
    (folder / "imported" / "catalogue.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"arts/imported: is damaged; run: python launch/prepare\.py --dataset arts"):
        read_import(folder)


def test_damaged_addresses_are_named(folder):
    (folder / "imported" / "urls.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"urls\.parquet: is not readable"):
        read_import(folder)


def test_a_changed_file_has_another_stamp(tmp_path):
    (tmp_path / "x").write_text("1")
    found = Found("amazon", {"text": tmp_path / "x"}, Pictures())
    before = stamps(found)
    assert stamps(found) == before
    (tmp_path / "x").write_text("22")
    assert stamps(found) != before
