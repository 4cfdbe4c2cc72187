"""Record files: one LMDB file of named byte strings with a JSON manifest. Nothing is ever unpickled."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb

from odmt.commands import size
from odmt.errors import FeatureStoreError

_MANIFEST_KEY = b"\x00manifest"  # item ids hold no NUL, so no item can take this place
_FIRST_MAP_BYTES = 64 * 2**20
_SPARE_BYTES = 256 * 2**20  # what a file system wants left, and LMDB's own pages


class RecordFile:
    """One LMDB file, open for reading or for writing; use it as a context manager.

    A reader takes no lock, so that many processes and read-only file systems are fine. A batch of writes appears as a
    whole or not at all, and lies on the disk when ``write`` returns.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        """Open a file; a writer makes it if it is missing.

        Args:
            path: the LMDB file itself, not a folder.
            write: open for writing.

        Raises:
            FeatureStoreError: the file is missing, empty, cut off, or no LMDB file of ours. A file without any record
                is ours: a writer was stopped before its first transaction.
        """
        self.path = path
        foreign = path.exists()
        if not write and not foreign:
            raise FeatureStoreError(f"{path}: does not exist")
        if foreign and not path.is_file():
            raise FeatureStoreError(f"{path}: is not a file")
        if not write and path.stat().st_size == 0:
            raise FeatureStoreError(f"{path}: is empty")
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            map_size = max(_FIRST_MAP_BYTES, 2 * path.stat().st_size) if write and foreign else _FIRST_MAP_BYTES
            self._lmdb = lmdb.open(
                os.fsencode(path),
                subdir=False,
                readonly=not write,
                lock=write,
                map_size=map_size if write else 0,
                max_readers=64,
            )
        except (lmdb.Error, OSError) as error:
            raise _unreadable(path, error) from error
        if foreign:
            self._check()

    def _check(self) -> None:
        # Reading past the end of a cut-off file would kill the process with SIGBUS.
        try:
            needed = (self._lmdb.info()["last_pgno"] + 1) * self._lmdb.stat()["psize"]
            if self.path.stat().st_size < needed:
                raise FeatureStoreError(f"{self.path}: is cut off: {self.path.stat().st_size} of {needed} bytes")
            if not self.is_empty:
                self.manifest()
        except lmdb.Error as error:
            self.close()
            raise _unreadable(self.path, error) from error
        except FeatureStoreError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._lmdb.close()

    @property
    def is_empty(self) -> bool:
        """Whether there is no record, not even a manifest."""
        return not self._lmdb.stat()["entries"]

    def manifest(self) -> dict[str, Any]:
        """Return the manifest.

        Raises:
            FeatureStoreError: the file is empty, or holds no JSON mapping in that place: not a file of ours.
        """
        if self.is_empty:
            raise FeatureStoreError(f"{self.path}: is empty")
        with self._lmdb.begin() as transaction:
            content = transaction.get(_MANIFEST_KEY)
        try:
            manifest = json.loads(content) if content is not None else None
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise FeatureStoreError(f"{self.path}: is an LMDB file without our manifest; it was not made by odmt")
        return manifest

    @contextmanager
    def view(self) -> Iterator["View"]:
        """Give zero-copy access to the records; the memory is valid inside the ``with`` block only."""
        try:
            with self._lmdb.begin(buffers=True) as transaction:
                yield View(transaction)
        except lmdb.Error as error:
            raise _unreadable(self.path, error) from error

    def write(
        self,
        records: Mapping[str, bytes],
        manifest: Mapping[str, Any] | None = None,
        *,
        delete: Iterable[str] = (),
    ) -> None:
        """Add or replace records, and the manifest if one is given, in one transaction and in the order of their keys.

        Args:
            records: content by key.
            manifest: the new manifest; None = leave it as it is.
            delete: keys of records that go.

        Raises:
            FeatureStoreError: the disk is full or the file cannot be written.
        """
        items = {key.encode(): value for key, value in records.items()}
        delete = list(delete)
        if manifest is not None:
            items[_MANIFEST_KEY] = json.dumps(manifest, sort_keys=True).encode()
        try:
            while True:
                try:
                    with self._lmdb.begin(write=True) as transaction:
                        for key in delete:
                            transaction.delete(key.encode())
                        for name in sorted(items):
                            transaction.put(name, items[name])
                    return
                except lmdb.MapFullError:
                    self._lmdb.set_mapsize(2 * self._lmdb.info()["map_size"])
        except lmdb.Error as error:
            raise FeatureStoreError(f"{self.path}: cannot be written: {error}") from error


class View:
    """The records as they were when the view began."""

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction

    def get(self, key: str) -> memoryview | None:
        """Return a record's bytes without copying them, or None if there is no such record."""
        value: memoryview | None = self._transaction.get(key.encode())
        return value

    def scan(self, prefix: str) -> Iterator[tuple[str, memoryview]]:
        """Yield key and content of the records whose keys begin with a prefix, in the order of their keys."""
        start = prefix.encode()
        with self._transaction.cursor() as cursor:
            found = cursor.set_range(start)
            while found:
                key, value = cursor.item()
                if bytes(key[: len(start)]) != start:
                    return
                yield bytes(key).decode(), value
                found = cursor.next()


def check_space(path: Path, num_bytes: int) -> None:
    """Check before a long work that the disk has room for what it will write.

    Args:
        path: the file that will grow.
        num_bytes: by how much, at most.

    Raises:
        FeatureStoreError: it has not; says how much is there.
    """
    folder = next(parent for parent in path.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if num_bytes + _SPARE_BYTES > free:
        raise FeatureStoreError(
            f"{path}: needs {size(num_bytes)} more and {folder} has {size(free)} free; free some, or set ODMT_HOME to "
            "a larger disk"
        )


def _unreadable(path: Path, error: Exception) -> FeatureStoreError:
    reason = str(error).removeprefix(f"{path}: ")
    return FeatureStoreError(f"{path}: is not a readable LMDB file ({reason})")
