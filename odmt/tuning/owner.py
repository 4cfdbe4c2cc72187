"""The process that runs a study, and how it is asked to end."""

import contextlib
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from odmt.errors import StudyLockedError
from odmt.tuning.event_log import is_owned
from odmt.tuning.studies import Standing

if TYPE_CHECKING:
    import psutil

_POLL_SECONDS = 0.1


def stop_owner(standing: Standing, timeout_seconds: float) -> None:
    """Ask the driver of a study to end as Ctrl-C does, and wait until it has.

    Raises:
        StudyLockedError: it runs on another host, belongs to someone else, or has not ended in time.
    """
    name, pid = standing.name, standing.pid
    here = socket.gethostname()
    if standing.host not in (None, here):
        raise StudyLockedError(
            f"study {name!r} is run by process {pid} on host {standing.host!r}, and this is {here!r}; stop it there"
        )
    owner = owning_process(standing.folder, pid or 0)
    if owner is None:
        if not is_owned(standing.folder):
            return
        raise StudyLockedError(
            f"study {name!r}: its lock is held, but not by process {pid} of this host ({here!r}) and user; "
            "stop it where it was begun"
        )
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):  # it ends by itself just now
        owner.send_signal(signal.SIGTERM)  # psutil compares start times: who got the number since is spared
    until = time.monotonic() + timeout_seconds
    while is_owned(standing.folder):
        if time.monotonic() > until:
            raise StudyLockedError(
                f"study {name!r}: process {pid} has been told to end, and has not within {timeout_seconds:g} s; wait, "
                "or stop it once more, which ends it at once"
            )
        time.sleep(_POLL_SECONDS)


def owning_process(folder: Path, pid: int) -> "psutil.Process | None":
    """Return the process of this host that has a study's lock open under this number; None = it does not."""
    import psutil

    lock = str((folder / "lock").resolve())
    try:
        process = psutil.Process(pid)
        return process if any(file.path == lock for file in process.open_files()) else None
    except psutil.Error:
        return None
