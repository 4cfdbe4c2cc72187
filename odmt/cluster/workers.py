"""The worker processes on this machine: gone before the driver says that it has ended."""

import contextlib
import socket
from collections.abc import Iterator

import psutil

_SAME_SECONDS = 0.1


class Workers:
    """Worker processes that told where they run."""

    def __init__(self) -> None:
        """Know none."""
        self._told: set[tuple[int, float]] = set()

    def add(self, host: str, pid: int, began: float) -> None:
        """Remember a process by its id and start time, which no later process shares; elsewhere it is not ours to end.

        Args:
            host: as ``nodes.this_host`` names it.
            pid: its id.
            began: its start in seconds since 1970.
        """
        if host.partition("/")[0] == socket.gethostname():
            self._told.add((pid, began))

    def wait_until_gone(self, seconds: float = 10.0) -> None:
        """Wait for them to end once Ray has been left, and end those that do not."""
        _, alive = psutil.wait_procs(list(self._alive()), timeout=seconds)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=seconds)

    def _alive(self) -> Iterator[psutil.Process]:
        for pid, began in self._told:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if abs(process.create_time() - began) < _SAME_SECONDS:
                    yield process
