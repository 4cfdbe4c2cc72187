"""Batches made ahead in a thread, so that gathering on the host overlaps with work on the GPU."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Made = TypeVar("Made")


def prefetched(source: Iterable[Made], depth: int = 2, *, start: Callable[[], object] = lambda: None) -> Iterator[Made]:
    """Yield what ``source`` yields, in order, made at most ``depth`` ahead by a thread, which calls ``start`` first.

    What the source raises is raised here, in its place. Closing the generator ends the thread.
    """
    ready: queue.Queue[tuple[Made | None, BaseException | None, bool]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(entry: tuple[Made | None, BaseException | None, bool]) -> bool:
        while not closed.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            start()
            for made in source:
                if not put((made, None, False)):
                    return
            put((None, None, True))
        except BaseException as error:  # handed over, not handled
            put((None, error, True))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            made, error, ended = ready.get()
            if error is not None:
                raise error
            if ended:
                return
            yield made  # type: ignore[misc]
    finally:
        closed.set()
        thread.join()
