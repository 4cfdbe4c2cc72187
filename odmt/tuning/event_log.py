"""A study's event log: the truth about it, appended one durable line at a time.

``studies/<study>/events.jsonl`` holds one JSON object a line, its last key the CRC-32 of what stands before it. A
record is decided, appended, synced, applied, and only then acted on; a driver that dies in the middle leaves a torn
last line, which is cut when the log is opened again. ``lock`` beside it belongs to the one driver that may append.
"""

import fcntl
import json
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from odmt.errors import EventLogError, ServiceError, StudyLockedError
from odmt.files import sync
from odmt.tuning.folding import apply
from odmt.tuning.state import Study

_CRC = ',"crc":"'
_CRC_LENGTH = len(_CRC) + 8 + len('"}')
_log = logging.getLogger(__name__)

Listener = Callable[[Study, Mapping[str, Any]], None]


def encode(record: Mapping[str, Any]) -> bytes:
    """Return a record as one line; numbers that are not finite become null."""
    text = json.dumps(_finite(record), separators=(",", ":"), allow_nan=False)
    body = text[:-1]
    return f'{body}{_CRC}{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def decode(line: bytes) -> dict[str, Any]:
    """Return the record of one line without its newline.

    Raises:
        ValueError: the line is damaged.
    """
    body, tail = line[:-_CRC_LENGTH], line[-_CRC_LENGTH:]
    if tail != f'{_CRC}{zlib.crc32(body):08x}"}}'.encode():
        raise ValueError("its checksum does not match")
    record: dict[str, Any] = json.loads(body + b"}")
    return record


def replay(path: Path, content: bytes) -> tuple[Study, int]:
    """Fold a log's complete lines.

    Returns:
        The study, and the length in bytes of the complete lines; what follows is a torn tail.

    Raises:
        EventLogError: a complete line is damaged or out of order; names it.
    """
    study = Study()
    length = content.rfind(b"\n") + 1
    for number, line in enumerate(content[:length].split(b"\n")[:-1], start=1):
        try:
            apply(study, decode(line))
        except KeyError as error:
            raise EventLogError(f"{path}:{number}: damaged event log: the record lacks {error}") from error
        except (ValueError, TypeError) as error:
            raise EventLogError(f"{path}:{number}: damaged event log: {error}") from error
    return study, length


def read_log(path: Path) -> Study:
    """Fold a log without owning it; a torn tail is left out.

    Raises:
        EventLogError: the log is damaged elsewhere.
    """
    return replay(path, path.read_bytes())[0]


class EventLog:
    """The owner's side of a study's log: lock, replay, append.

    Attributes:
        study: what the log says, always up to date.
        listeners: called after each commit; what they raise is logged and forgotten.
        failure: why the last commit could not be written.
    """

    def __init__(self, folder: Path) -> None:
        """Own the study in a folder, and read what it knows.

        Raises:
            StudyLockedError: another driver owns it.
            EventLogError: the log is damaged elsewhere than at its torn tail.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "events.jsonl"
        self.listeners: list[Listener] = []
        self.failure: ServiceError | None = None
        self._lock = _take_lock(folder / "lock")
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                content = self.path.read_bytes()
                self.study, length = replay(self.path, content)
                if length < len(content):
                    os.ftruncate(self._file, length)
                    os.fsync(self._file)
                sync(folder)
            except BaseException:
                os.close(self._file)
                raise
        except BaseException:
            os.close(self._lock)
            raise

    def commit(self, kind: str, **fields: Any) -> None:
        """Append a record durably, then apply it.

        Raises:
            ServiceError: the disk is full or gone; nothing of the record is left. Kept as ``failure`` too, since Tune
                hides what its schedulers raise.
            ValueError: the record cannot follow what came before it; nothing of it is left.
        """
        record = {"kind": kind, "time": time.time(), **fields}
        line = encode(record)
        before = os.fstat(self._file).st_size
        try:
            _write(self._file, line)
        except OSError as error:
            self.failure = ServiceError(
                f"{self.path}: cannot be written: {error.strerror}; nothing before it is lost, make room and type the "
                "same command again"
            )
            raise self.failure from error
        plain = decode(line[:-1])
        try:
            apply(self.study, plain)
        except BaseException:
            os.ftruncate(self._file, before)
            raise
        for listener in self.listeners:
            try:
                listener(self.study, plain)
            except Exception:
                _log.exception("a listener failed on %s; the search goes on", kind)

    def close(self) -> None:
        """Give the study back."""
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write(descriptor: int, line: bytes) -> None:
    """Append a whole line and sync it; a failed write leaves no half of it behind."""
    before = os.fstat(descriptor).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fdatasync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def is_owned(folder: Path) -> bool:
    """Say whether a driver owns the study in a folder now."""
    path = folder / "lock"
    if not path.is_file():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH, attempts=1)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int, attempts: int) -> bool:
    for _ in range(attempts):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)  # a reader that only asks who owns the study holds it for a moment
        else:
            return True
    return False


def _take_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if not _try_lock(descriptor, fcntl.LOCK_EX, attempts=10):
        owner = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StudyLockedError(
            f"study {path.parent.name!r} is being run by process {owner}; wait for it, stop it, or use another --study"
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
