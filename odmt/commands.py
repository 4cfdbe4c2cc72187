"""What every command shares: strict arguments, one clear sentence an error, exit codes, progress."""

import argparse
import errno
import io
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from odmt.errors import InterruptedStudy, OdmtError

T = TypeVar("T")
USAGE = 2
DATA = 3
INTERRUPTED = 130
CLOSED_PIPE = 141
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEAST_SECONDS, _MOST_SECONDS = 2.0, 60.0
"""Between two plain lines of progress."""


class _UsageError(Exception):
    pass


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and ends every refusal with exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def add_set(self) -> None:
        """Add ``--set key=value``, which may be given several times."""
        self.add_argument(
            "--set",
            action="append",
            default=[],
            dest="assignments",
            metavar="KEY=VALUE",
            help="set a value of the configuration, such as train.max_epochs=5; may be given several times",
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, so that ``main`` returns the code."""
        raise _UsageError(f"{self.format_usage()}error: {message}")


def run(parser: Parser, body: Callable[[argparse.Namespace], int], argv: list[str] | None) -> int:
    """Parse, run the body, and turn what it raises into one sentence and an exit code.

    Returns:
        The exit code: 0 done, 1 a bug (with its traceback), else the error's own code.
    """
    # Threads of a torch operation wait asleep: spinning ones made an epoch 4 to 20 times longer wherever another
    # process wanted the core. Read once, when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        arguments = parser.parse_args(argv)
    except _UsageError as error:
        print(error, file=sys.stderr)
        return USAGE
    except SystemExit as leaving:  # --help
        return leaving.code if isinstance(leaving.code, int) else 0
    try:
        with _terminated_like_interrupted():
            return body(arguments)
    except InterruptedStudy as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OdmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        words = shlex.join(["python", *sys.argv] if argv is None else argv)
        print(f"interrupted; go on with: {words}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output left before the work was done
        return CLOSED_PIPE
    except OSError as error:
        if error.errno in _DISK_FULL:
            where = "" if error.filename is None else f"{error.filename}: "
            print(f"error: {where}{error.strerror}; make room, and run the same command again", file=sys.stderr)
            return DATA
        if error.filename is None:
            traceback.print_exc()
            return 1
        print(f"error: {error.filename}: {error.strerror}; check the path and its permissions", file=sys.stderr)
        return DATA
    except Exception:
        traceback.print_exc()
        return 1


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that nothing ends without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items with a progress bar and the time left; plain lines without a terminal."""
    with meter(what, total) as tell:
        for count, item in enumerate(items, start=1):
            yield item
            tell(count)


@contextmanager
def meter(what: str, total: int, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Give a function to tell how much is done: a bar with the time left, or plain lines without a terminal.

    Args:
        what: label.
        total: how much there is to do.
        in_bytes: the amounts are bytes.
    """
    if not sys.stderr.isatty():
        yield _PlainLines(what, total, in_bytes)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    with Progress(TextColumn(what), BarColumn(), amount, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


class _PlainLines:
    """A line every quarter of the work, but not more often than every few seconds, and every minute."""

    def __init__(self, what: str, total: int, in_bytes: bool) -> None:
        self._what, self._total, self._in_bytes = what, total, in_bytes
        self._started = self._told = time.monotonic()
        self._quarter = 0

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        quarter = 4 * done // self._total if self._total else 4
        since = now - self._told
        if since < _LEAST_SECONDS or (quarter == self._quarter and since < _MOST_SECONDS):
            return
        self._quarter, self._told = quarter, now
        amount = f"{100 * done // max(1, self._total)} %" if self._in_bytes else f"{done} of {self._total}"
        spent = now - self._started
        left = f", about {duration(spent * (self._total - done) / done)} left" if spent > 5 and done else ""
        print(f"{self._what}: {amount}{left}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(num_bytes: float) -> str:
    """Return an amount of memory in words: 12.3 MB, 7.4 GB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
