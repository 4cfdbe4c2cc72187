"""What a worker tells of a failure: its kind, one sentence with the sizes, traceback, last log lines."""

import contextlib
import errno
import gc
import re
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odmt.config import RunConfig
from odmt.errors import NonFiniteError
from odmt.tuning.faults import DISK

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_ROOM_WORDS = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
_TORCH_FILE = "PytorchStreamWriter failed"  # all that torch.save says, whatever the reason
_LITTLE_BYTES = 64 * 2**20
_NO_MEMORY_WORDS = ("can't allocate memory", "CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED")
_BROKEN = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.EREMOTEIO}
_MACHINE_WORDS = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "NCCL error", "data parallel: process")
_ASKED = re.compile(r"(?:tried|[Uu]nable) to allocate ([\d.]+ ?\w+)", re.IGNORECASE)


class MachineFault(RuntimeError):
    """The machine has not what it had promised."""


def told(error: BaseException, config: RunConfig | None, folder: Path, *, gpu_share: float) -> dict[str, Any]:
    """Return ``what``, ``failed`` (one sentence) and ``traceback`` of what ended a trial.

    Args:
        error: as it was caught.
        config: the trial's; None = it could not be read.
        folder: the trial's, on the disk that its checkpoints go to.
        gpu_share: of a GPU's memory that the trial may take.
    """
    text = "".join(traceback.format_exception(error))
    if is_disk_full(error, folder):
        what, sentence = DISK, _disk_sentence(folder)
    elif store := _store_sentence(error):
        what, sentence = DISK, store
    elif is_out_of_memory(error):
        what, sentence = "oom", f"out of memory: {', '.join(_sizes(error, config, gpu_share))}"
    elif isinstance(error, NonFiniteError):
        what, sentence = "error", str(error)
    else:
        first_line = (str(error).splitlines() or [""])[0]
        what, sentence = "error", f"{type(error).__name__}: {first_line}"
    return {"what": what, "failed": sentence, "traceback": text}


def leave(path: Path, traceback_text: str, log_tail: str) -> bool:
    """Write a trial's error file; say whether that was possible."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{traceback_text}\nLast lines of the log:\n{log_tail}\n", encoding="utf-8")
        return True
    return False


def free_memory() -> None:
    """Give back what the trial before has left: to the next attempt, and to the others on this GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Say whether a write failed for want of room, whichever library says it in its own words."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in _NO_ROOM:
            return True
        if any(words in str(link) for words in _NO_ROOM_WORDS):
            return True
        if _TORCH_FILE in str(link) and _disk(folder).free < _LITTLE_BYTES:
            return True
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory, of a GPU or the machine, was asked for and not there."""
    import torch

    for link in _chain(error):
        if isinstance(link, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(link, RuntimeError) and any(words in str(link) for words in _NO_MEMORY_WORDS):
            return True
    return False


def is_fault_of_machine(error: BaseException) -> bool:
    """Say whether the machine failed and not the trial: its GPU, its network, its file system.

    What such a process computes next is not to be trusted: it must end, and the trial is tried again elsewhere.
    """
    for link in _chain(error):
        if isinstance(link, MachineFault) or (isinstance(link, OSError) and link.errno in _BROKEN):
            return True
        if isinstance(link, RuntimeError) and any(words in str(link) for words in _MACHINE_WORDS):
            return not is_out_of_memory(error)
    return False


def _sizes(error: BaseException, config: RunConfig | None, gpu_share: float) -> Iterator[str]:
    import psutil
    import torch

    if asked := _ASKED.search(str(error)):
        yield f"{_in_units(asked[1])} more were asked for"
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            held = torch.cuda.memory_reserved(number)
            yield (
                f"GPU {number} has {_gib(free)} of {_gib(total)} free, this trial holds {_gib(held)}"
                + (f" and may take {_gib(total * gpu_share)}" if 0 < gpu_share < 1 else "")
            )
    memory = psutil.virtual_memory()
    yield f"the machine has {_gib(memory.available)} of {_gib(memory.total)} free"
    if config is not None:
        yield f"train.batch_size {config.train.batch_size}"
        yield f"model.embedding_dim {config.model.embedding_dim}"
        yield f"train.items_per_group {config.train.items_per_group or 'auto'}"
        yield f"train.recompute_items {str(config.train.recompute_items).lower()}"


def _disk_sentence(folder: Path) -> str:
    disk = _disk(folder)
    return f"{folder}: the disk is full, {disk.free / 1e6:.1f} MB of {disk.total / 1e9:.1f} GB are free; make room"


def _store_sentence(error: BaseException) -> str | None:
    from odmt.cluster.shared_features import is_store_full, store_sentence

    return store_sentence() if any(is_store_full(link) for link in _chain(error)) else None


def _disk(folder: Path) -> Any:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _in_units(asked: str) -> str:
    number, _, unit = asked.partition(" ")
    return _gib(float(number)) if unit == "bytes" else asked


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
