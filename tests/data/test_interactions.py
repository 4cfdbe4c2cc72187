import os

import numpy as np
import pytest

from odmt.data.interactions import (
    Catalogue,
    Interactions,
    content_digest,
    dataset_digest,
    dataset_exists,
    read_catalogue,
    read_interactions,
    write_dataset,
)
from odmt.errors import DataError, MissingDataError
from odmt.files import write_atomically

CATALOGUE = Catalogue(["a", "ß", "c"], ["Red pen", "", "Ink\u2028well"])
INTERACTIONS = Interactions(["u1", "u2", "u1"], np.array([0, 2, 3, 6]), np.array([2, 0, 1, 1, 1, 0], dtype=np.int32))


@pytest.fixture
def folder(tmp_path):
    write_dataset(tmp_path / "arts", INTERACTIONS, CATALOGUE)
    return tmp_path / "arts"


def test_what_was_written_reads_back(folder):
    catalogue = read_catalogue(folder)
    assert catalogue == CATALOGUE
    interactions = read_interactions(folder, catalogue)
    assert interactions.users == INTERACTIONS.users
    np.testing.assert_array_equal(interactions.offsets, INTERACTIONS.offsets)
    np.testing.assert_array_equal(interactions.items, INTERACTIONS.items)
    assert (interactions.offsets.dtype, interactions.items.dtype) == (np.int64, np.int32)
    np.testing.assert_array_equal(interactions.occurring_rows, [0, 1, 2])


def test_sequences_are_stored_under_external_ids(folder):
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "interactions.parquet")
    assert table.column("items").to_pylist() == [["c", "a"], ["ß"], ["ß", "ß", "a"]]


def test_the_digest_follows_the_content_and_nothing_else(folder, tmp_path):
    write_dataset(tmp_path / "other", INTERACTIONS, CATALOGUE)
    assert dataset_digest(tmp_path / "other") == dataset_digest(folder) == content_digest(INTERACTIONS, CATALOGUE)
    retitled = CATALOGUE._replace(titles=["Red pen", "", "Ink"])
    swapped = INTERACTIONS._replace(items=INTERACTIONS.items[::-1])
    moved = INTERACTIONS._replace(offsets=np.array([0, 1, 3, 6]))
    digests = {
        content_digest(INTERACTIONS, retitled),
        content_digest(swapped, CATALOGUE),
        content_digest(moved, CATALOGUE),
    }
    assert len(digests | {dataset_digest(folder)}) == 4


def test_a_missing_data_set_names_the_command(tmp_path):
    with pytest.raises(MissingDataError, match=r"'arts' is not prepared.*prepare\.py --dataset arts --source DIR"):
        read_catalogue(tmp_path / "arts")
    with pytest.raises(MissingDataError, match=r"prepare\.py --dataset demo$"):
        dataset_digest(tmp_path / "demo")


def test_an_import_cut_off_between_the_two_files_counts_as_none(folder, monkeypatch):
    replace = os.replace

    def cut_off(source, target):
        if str(target).endswith("interactions.parquet"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(folder, INTERACTIONS, CATALOGUE._replace(titles=["x", "y", "z"]))
    assert not dataset_exists(folder)
    with pytest.raises(MissingDataError, match="two different imports"):
        read_catalogue(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["catalogue.parquet", "interactions.parquet"]


def test_a_foreign_or_damaged_file_is_named(folder):
    with pytest.raises(DataError, match="belongs to another catalogue"):
        read_interactions(folder, CATALOGUE._replace(titles=["x", "y", "z"]))
    (folder / "catalogue.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DataError, match=r"catalogue\.parquet: is not a readable Parquet file"):
        read_catalogue(folder)


def test_a_failed_atomic_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    write_atomically(tmp_path / "x", b"old")

    def full(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"
