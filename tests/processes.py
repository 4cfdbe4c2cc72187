"""Processes of a test: which of them are still there."""

import time

import psutil


def lives(process):
    """A process that ended counts as gone even where nobody takes notice of its end."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def surviving(processes, seconds=30):
    """Return those that do not end by themselves."""
    deadline = time.monotonic() + seconds
    while (processes := [one for one in processes if lives(one)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes
