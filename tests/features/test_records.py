from types import SimpleNamespace

import lmdb
import pytest

from odmt.errors import FeatureStoreError
from odmt.features.records import RecordFile, check_space


@pytest.fixture
def path(tmp_path):
    with RecordFile(tmp_path / "r.lmdb", write=True) as records:
        records.write({"a": b"one", "b": b"two"}, {"format": "x"})
    return tmp_path / "r.lmdb"


def test_records_and_manifest_read_back(path):
    with RecordFile(path) as records, records.view() as view:
        assert records.manifest() == {"format": "x"}
        assert (bytes(view.get("a")), view.get("c")) == (b"one", None)


def test_a_reader_leaves_no_lock_file_behind(path):
    (path.parent / "r.lmdb-lock").unlink()
    RecordFile(path).close()
    assert [file.name for file in path.parent.iterdir()] == ["r.lmdb"]


def test_the_map_grows_with_the_content(path):
    large = bytes(100 * 2**20)
    with RecordFile(path, write=True) as records:
        records.write({"large": large, "c": b"three"})
    with RecordFile(path) as records, records.view() as view:
        assert len(view.get("large")) == len(large)
        assert bytes(view.get("c")) == b"three"


def test_a_batch_that_fails_leaves_nothing_of_itself(path):
    with RecordFile(path, write=True) as records, pytest.raises(FeatureStoreError, match="cannot be written"):
        records.write({"a": b"new", "z" * 600: b"key too long"})
    with RecordFile(path) as records, records.view() as view:
        assert bytes(view.get("a")) == b"one"


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FeatureStoreError, match=r"r\.lmdb: does not exist"):
        RecordFile(tmp_path / "r.lmdb")
    with pytest.raises(FeatureStoreError, match="is not a file"):
        RecordFile(tmp_path)


@pytest.mark.parametrize("write", [False, True])
def test_something_else_than_an_lmdb_file_is_refused(tmp_path, write):
    (tmp_path / "r.lmdb").write_bytes(b"not an LMDB file at all" * 1000)
    with pytest.raises(FeatureStoreError, match=r"r\.lmdb: is not a readable LMDB file"):
        RecordFile(tmp_path / "r.lmdb", write=write)


def test_a_cut_off_file_is_refused_instead_of_killing_the_process(path):
    with RecordFile(path, write=True) as records:
        records.write({str(number): bytes(9000) for number in range(50)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeatureStoreError, match="is cut off"):
        RecordFile(path)


@pytest.mark.parametrize("write", [False, True])
def test_an_lmdb_file_of_another_program_is_refused(tmp_path, write):
    with lmdb.open(str(tmp_path / "r.lmdb"), subdir=False) as other, other.begin(write=True) as transaction:
        transaction.put(b"__len__", b"3")
    with pytest.raises(FeatureStoreError, match="without our manifest"):
        RecordFile(tmp_path / "r.lmdb", write=write)


def test_records_of_a_prefix_come_in_the_order_of_their_keys(path):
    with RecordFile(path, write=True) as records:
        records.write({"\0ib": b"1", "\0ia": b"2", "\0j": b"3", "a": b"4", "\0i\u00e9": b"5"})
    with RecordFile(path) as records, records.view() as view:
        assert [(key, bytes(value)) for key, value in view.scan("\0i")] == [
            ("\0ia", b"2"), ("\0ib", b"1"), ("\0i\u00e9", b"5")
        ]  # fmt: skip
        assert [key for key, _ in view.scan("\0k")] == []


def test_deleted_records_go_in_the_same_transaction_and_missing_ones_are_no_matter(path):
    with RecordFile(path, write=True) as records:
        records.write({"a": b"1", "b": b"2"})
        records.write({"c": b"3"}, delete=["a", "never"])
        with records.view() as view:
            assert [view.get(key) is not None for key in "abc"] == [False, True, True]


def test_room_on_the_disk_is_asked_for_with_the_numbers(path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2 * 10**9))
    check_space(path.parent / "not" / "there" / "yet.lmdb", 10**9)
    with pytest.raises(
        FeatureStoreError, match=r"needs 2\.0 GB more and .* has 2\.0 GB free; free some, or set ODMT_HOME"
    ):
        check_space(path, 2 * 10**9)
