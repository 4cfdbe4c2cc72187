import os

import numpy as np
import pytest

from odmt.data.imported import ImportRecord, read_import, read_record, read_whole, rewrite_record, stamps, write_import
from odmt.data.interactions import Catalogue, Interactions, write_dataset
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
    "/somewhere", "amazon-2018", {"x.gz": [5, 6]}, [5, 5, None, 1], [5, 5], PICTURES, SOURCE.notes, "", None
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
    assert imported.record._replace(digest="") == RECORD._replace(addressed=len(SOURCE.urls))


def test_a_second_import_without_addresses_leaves_none(folder):
    write_import(folder, SOURCE._replace(urls=None), RECORD)
    assert read_import(folder).urls == {}


def test_without_an_import_there_is_no_record(tmp_path):
    assert read_record(tmp_path) is None
    with pytest.raises(MissingDataError, match="has never been imported"):
        read_import(tmp_path / "arts")


def test_tables_that_a_kill_left_beside_an_older_record_count_as_none_and_the_source_is_remembered(folder):
    other = SOURCE._replace(catalogue=Catalogue(["a", "b"], ["A", "Other"]))
    write_dataset(folder / "imported", other.interactions, other.catalogue)  # and no record: killed before it
    record = read_record(folder)
    assert record.source == "/somewhere"
    assert read_whole(folder, record) is None
    with pytest.raises(DataError, match=r"arts/imported: is damaged or was cut off; run: .*--dataset arts"):
        read_import(folder)


def test_a_source_whose_name_is_no_text_is_remembered(folder):
    odd = os.fsdecode(b"/some\xffwhere")
    rewrite_record(folder, read_record(folder)._replace(source=odd))
    assert read_record(folder).source == odd


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other"}', '{"format": "odmt-import-1"}'])
def test_a_damaged_record_is_named(content, folder):
    (folder / "imported" / "import.json").write_text(content)
    with pytest.raises(DataError, match=r"imported/import\.json: is damaged .*with --source DIR"):
        read_record(folder)


def test_a_damaged_table_is_named_with_the_command(folder):
    (folder / "imported" / "catalogue.parquet").write_bytes(b"junk")
    with pytest.raises(
        DataError, match=r"arts/imported: is damaged or was cut off; run: python launch/prepare\.py --dataset arts"
    ):
        read_import(folder)


@pytest.mark.parametrize("content", [None, b"junk"])
def test_an_import_whose_addresses_are_lost_or_damaged_counts_as_none(content, folder):
    path = folder / "imported" / "urls.parquet"
    path.unlink() if content is None else path.write_bytes(content)
    assert read_whole(folder, read_record(folder)) is None
    with pytest.raises(DataError, match=r"arts/imported: is damaged or was cut off; run: .*--dataset arts"):
        read_import(folder)


def test_a_changed_file_has_another_stamp(tmp_path):
    (tmp_path / "x").write_text("1")
    found = Found("amazon", {"text": tmp_path / "x"}, Pictures())
    before = stamps(found)
    assert stamps(found) == before
    (tmp_path / "x").write_text("22")
    assert stamps(found) != before
