"""Work on many items in other processes, results in order, only a few items under way at once."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from odmt.errors import DataError

InT = TypeVar("InT")
OutT = TypeVar("OutT")

FEW = 300
"""Items up to which starting processes costs more than it saves."""
MOST = 8
"""Processes unless more are asked for: a decoding one with torch takes 150 MB, and eight keep a GPU busy."""
_CHUNK = 32
DIED = (
    "a process that decodes pictures died, perhaps for want of memory or of room in /dev/shm; what is done is kept: "
    "run the same command again, with fewer processes (--set prepare.workers=1) or smaller batches "
    "(--set prepare.batch_size=16)"
)


def worker_count(asked: int | None, num_items: int) -> int:
    """Return how many processes to work with: as configured, else one a CPU up to a bound; none for a few items."""
    if asked is not None:
        return asked
    return 0 if num_items <= FEW else min(MOST, usable_cpus())


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(work: Callable[[InT], OutT], items: Iterable[InT], workers: int) -> Generator[OutT, None, None]:
    """Yield the result of every item, in order.

    Args:
        work: a function of a module, called in the workers.
        items: taken as they are needed.
        workers: processes; 0 = this one.

    Raises:
        DataError: a worker died, for want of memory or in a decoder.
    """
    if workers == 0:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker) as pool:
        under_way: deque[Future[list[OutT]]] = deque()
        try:
            for chunk in _chunks(items):
                with uninterrupted():  # the first call starts the processes
                    under_way.append(pool.submit(_work_on, work, chunk))
                if len(under_way) > 2 * workers:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(DIED) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _chunks(items: Iterable[InT]) -> Iterator[list[InT]]:
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _work_on(work: Callable[[InT], OutT], chunk: list[InT]) -> list[OutT]:
    return [work(item) for item in chunk]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let processes that are started meanwhile ignore Ctrl-C: the first process decides what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def begin_worker(*_: object) -> None:
    """Make a process that was just started ignore Ctrl-C, and end when the first one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the first process is gone: a killed one cannot tell its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
