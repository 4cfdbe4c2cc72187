"""Where a study's state and checkpoints lie."""

import errno
import os
import tempfile
from pathlib import Path

from odmt.errors import ConfigError, ServiceError

_WRONG_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def writable_folder(folder: Path, remedy: str = "set ODMT_HOME to a place that can") -> Path:
    """Make a folder and prove that it can be written to; ``remedy`` ends the sentence that says otherwise.

    Raises:
        ConfigError: the place is wrong: no permission, a read-only disk, below a file.
        ServiceError: it cannot for another reason, such as a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        sentence = f"cannot be written to: {error.strerror}; {remedy}"
        if error.errno in _WRONG_PLACE:
            raise ConfigError(folder, [sentence]) from error
        raise ServiceError(f"{folder}: {sentence}") from error
    return folder


def check_place(folder: Path) -> None:
    """Refuse a folder that could not be made or written to; nothing is made.

    Raises:
        ConfigError: no permission, a read-only disk, or a file in its way.
    """
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        reason = None if there.is_dir() else errno.ENOTDIR
        if reason is None and not os.access(
            there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
        ):
            reason = errno.EACCES
    except OSError as error:  # on the way there
        reason = error.errno
    if reason is not None:
        raise ConfigError(folder, [f"cannot be written to: {os.strerror(reason)}; set ODMT_HOME to a place that can"])


def trial_folder(study_folder: Path, trial_id: str) -> Path:
    """Return where a trial keeps its checkpoints; the same at every attempt."""
    return study_folder / "trials" / trial_id


def error_file(study_folder: Path, trial_id: str) -> Path:
    """Return where a trial that failed leaves its traceback."""
    return trial_folder(study_folder, trial_id) / "error.txt"
