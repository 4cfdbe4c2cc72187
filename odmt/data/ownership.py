"""Who prepares a data set: one process at a time, which also clears away what a killed one left behind."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from odmt.errors import DataError

LOCK_FILE = "prepare.lock"
# What mkdtemp and mkstemp add to a prefix is eight of these characters.
_STALE = re.compile(r"\.(import|images|source|text|image|[a-z0-9_-]+\.(tsv|json|parquet|png))-[a-z0-9_]{8}")


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a data set's folder, made if missing, for a while; afterwards an empty one is taken away again.

    Raises:
        DataError: another process owns it; names its pid.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    lock = _locked(folder / LOCK_FILE)
    try:
        yield
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        os.close(lock)
        with suppress(OSError):  # the first that holds something, and all above it, stay
            for parent in made:
                parent.rmdir()


def sweep(folder: Path) -> None:
    """Delete the temporary files and folders that a killed preparation left in a data set's folder; own it first."""
    for parent in (folder, folder / "encoders", folder / "imported", *folder.glob("imported/parts/*")):
        for path in parent.glob(".*-*"):
            if not _STALE.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _locked(path: Path) -> int:
    """Return the open file that holds the lock; the lock goes with the process, so that a kill leaves none."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # its former owner has just taken the empty folder away
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(lock, 32, 0).decode().strip() or "unknown"
            os.close(lock)
            raise DataError(
                f"{path}: another process (pid {pid}) is preparing data set {path.parent.name!r}; "
                "wait for it, then run the same command again"
            ) from error
        if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
            break
        os.close(lock)  # locked a file that its former owner had just unlinked
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
