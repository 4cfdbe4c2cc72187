"""Where a study's state and checkpoints lie."""

import errno
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


def trial_folder(study_folder: Path, trial_id: str) -> Path:
    """Return where a trial keeps its checkpoints; the same at every attempt."""
    return study_folder / "trials" / trial_id


def error_file(study_folder: Path, trial_id: str) -> Path:
    """Return where a trial that failed leaves its traceback."""
    return trial_folder(study_folder, trial_id) / "error.txt"
