"""Fetch many pictures at once, in daemon threads: an interrupted process ends without waiting for servers."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from odmt.config import PrepareConfig
from odmt.errors import ServiceError
from odmt.features.fetching import Failure, Fetcher, Stopped
from odmt.features.received import Picture

SILENT_AT_START = 20
"""So many items in a row without any answer, the first of a run: there is no network, or no such host."""

SILENT_LATER = 50
"""So many items in a row without any answer, later in a run: the network or the host is gone."""

_LEAVE_SECONDS = 2.0


class Outcome(NamedTuple):
    """What became of an item: the bytes of its picture, which is in its place, or a failure."""

    item: str
    result: int | Failure


def fetch_all(
    wanted: Mapping[str, Sequence[str]],
    keep: Callable[[str, Picture], None],
    settings: PrepareConfig,
    user_agent: str,
    base_wait_seconds: float,
) -> Generator[Outcome, None, None]:
    """Fetch and keep pictures, yielding each item once it is done with; close to stop.

    No more than ``download_connections`` pictures are in memory.

    Args:
        wanted: the addresses by item id, best first.
        keep: stores a picture; called from several threads.
        settings: the limits.
        user_agent: what is sent as such.
        base_wait_seconds: wait before a picture's second try.

    Raises:
        ServiceError: too many items in a row got no answer from any server.
    """
    waiting: queue.SimpleQueue[tuple[str, Sequence[str]]] = queue.SimpleQueue()
    for entry in wanted.items():
        waiting.put(entry)
    done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop, decoding = threading.Event(), threading.Lock()

    def work() -> None:
        try:
            with Fetcher(settings, user_agent, base_wait_seconds, stop, decoding) as fetcher:
                _work(fetcher, waiting, done, keep, stop)
        except Stopped:
            return
        except BaseException as error:  # the consumer's to raise
            done.put(error)

    num_threads = min(settings.download_connections, len(wanted))
    threads = [threading.Thread(target=work, name=f"download-{n}", daemon=True) for n in range(num_threads)]
    try:
        for thread in threads:
            thread.start()
        yield from _watched(done, len(wanted))
    finally:
        stop.set()
        until = time.monotonic() + _LEAVE_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))


def _work(
    fetcher: Fetcher,
    waiting: "queue.SimpleQueue[tuple[str, Sequence[str]]]",
    done: "queue.SimpleQueue[Outcome | BaseException]",
    keep: Callable[[str, Picture], None],
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            item, urls = waiting.get_nowait()
        except queue.Empty:
            return
        found = fetcher.fetch(urls)
        if isinstance(found, Failure):
            done.put(Outcome(item, found))
        elif not stop.is_set():
            keep(item, found)
            done.put(Outcome(item, len(found.content)))


def _watched(done: "queue.SimpleQueue[Outcome | BaseException]", total: int) -> Iterator[Outcome]:
    """Yield what is done until all is, or until the network is plainly gone."""
    silent, limit = 0, SILENT_AT_START
    for _ in range(total):
        outcome = done.get()
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome.result, Failure) and outcome.result.silent:
            silent += 1
            if silent == limit:
                raise ServiceError(
                    f"{outcome.result.reason}, and so it went with {silent} pictures in a row; check the network; "
                    "what was fetched is kept, and the same command goes on later"
                )
        else:
            silent, limit = 0, SILENT_LATER
        yield outcome
