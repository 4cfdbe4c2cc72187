"""Data parallelism: the other processes of a run with several GPUs, started and ended by the first.

The first process writes the arrays it reads to a folder that the others map into memory, so that the features exist
once more, not once a process. All build the same model, take their own batches of every step, and average gradients
(torch's DistributedDataParallel: NCCL on GPUs, Gloo on CPUs). Only the first validates, saves and reports.
"""

import contextlib
import datetime
import multiprocessing
import multiprocessing.connection
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from odmt.config import RunConfig, from_mapping, to_mapping
from odmt.data.split import DevelopmentSplit
from odmt.errors import ConfigError, NonFiniteError
from odmt.experiment.arrays import TrialArrays
from odmt.experiment.build import build_run
from odmt.features.ragged import FeatureShard, RaggedFeatures
from odmt.features.workers import usable_cpus
from odmt.training.batches import Shard
from odmt.training.checkpoint import Checkpoint
from odmt.training.optim import torch_settings
from odmt.training.trainer import fit

_PATIENCE = datetime.timedelta(days=7)
"""Others wait in a collective while the first validates, saves, and waits for whoever consumes its results."""

_SAVED, _READ, _WORDS = "saved.pt", "read-by-", "last-words-of-"
_NOTICED_SECONDS = 2.0
"""How long the first process, whose collective failed, waits to hear whether another one has ended."""


class _Orders(NamedTuple):
    """What another process needs to know."""

    folder: str
    config: dict[str, Any]
    shard: Shard
    device_type: str
    threads: int


@contextlib.contextmanager
def process_group(
    config: RunConfig, arrays: TrialArrays, saved: Checkpoint | None, device: torch.device
) -> Iterator[tuple[Shard, torch.device]]:
    """Start the other processes of a run, and end them on leaving; nothing happens for a run of one.

    Args:
        config: the run; ``train.data_parallel`` is the number of processes.
        arrays: what it reads.
        saved: the state that all processes start from.
        device: of the run; of several GPUs each process takes the one of its rank.

    Yields:
        This process's shard and device.

    Raises:
        ConfigError: fewer GPUs are visible, or CPUs usable, than processes are asked for.
    """
    count = config.train.data_parallel
    if count == 1:
        yield Shard(), device
        return
    if device.index is not None:
        raise ConfigError("--device", [f"{device} is one device, train.data_parallel {count} takes one a process"])
    if device.type == "cuda" and torch.cuda.device_count() < count:
        raise ConfigError(
            "train.data_parallel", [f"{count} processes need {count} GPUs, {torch.cuda.device_count()} are visible"]
        )
    cpus = usable_cpus()
    if device.type == "cpu" and count > max(2, cpus):  # two always, to try it out
        raise ConfigError("train.data_parallel", [f"{count} processes need as many CPUs, this machine gives {cpus}"])
    with tempfile.TemporaryDirectory(prefix="odmt-parallel-") as folder:
        _write_arrays(Path(folder), arrays)
        if saved is not None:
            _write_saved(Path(folder), saved)
        all_threads = torch.get_num_threads()
        threads = max(1, all_threads // count)
        context = torch.multiprocessing.get_context("spawn")
        others = [
            context.Process(
                target=_follow,
                args=(_Orders(folder, to_mapping(config), Shard(rank, count), device.type, threads),),
                name=f"process {rank}",
                daemon=True,
            )
            for rank in range(1, count)
        ]
        try:
            torch.set_num_threads(threads)
            for other in others:
                other.start()
            own_device = _join(Path(folder), Shard(0, count), device.type)
            _wait_until_read(Path(folder), others)
            for path in Path(folder).glob("*.npy"):
                path.unlink()  # all have mapped them; a first process that is killed leaves no copy of the features
            watch = _Watch(others, Path(folder))
            try:
                yield Shard(0, count), own_device
            except RuntimeError as error:
                if dead := watch.noticed():
                    raise RuntimeError(f"data parallel: {dead}; see its output above") from error
                raise
            finally:
                watch.end()
        finally:
            torch.set_num_threads(all_threads)
            for other in others:
                if other.pid is not None:
                    other.kill()
            if dist.is_initialized():
                dist.destroy_process_group()
            for other in others:
                if other.pid is not None:
                    other.join()


def _join(folder: Path, shard: Shard, device_type: str) -> torch.device:
    device = torch.device("cuda", shard.rank) if device_type == "cuda" else torch.device(device_type)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=shard.rank,
        world_size=shard.processes,
        timeout=_PATIENCE,
    )
    return device


def _follow(orders: _Orders) -> None:
    """Train along as another process, and leave word of what ended it: out of memory is told like the first one's."""
    try:
        _train_along(orders)
    except Exception as error:
        with contextlib.suppress(OSError):
            words = " ".join(f"{type(error).__name__}: {error}".split())
            (Path(orders.folder) / f"{_WORDS}{orders.shard.rank}").write_text(words[:500], encoding="utf-8")
        raise


def _ended(folder: Path, rank: int, other: Any, when: str = "") -> str:
    """Say how another process ended, in its own words where it left any."""
    path = folder / f"{_WORDS}{rank}"
    words = f": {path.read_text(encoding='utf-8')}" if path.exists() else ""
    return f"{other.name} ended with exit code {other.exitcode}{when}{words}"


def _train_along(orders: _Orders) -> None:
    """Train; what this process computes is told by the first one alone."""
    first = multiprocessing.parent_process()
    assert first is not None
    threading.Thread(target=_die_with, args=(first.pid,), daemon=True).start()
    torch.set_num_threads(orders.threads)
    folder = Path(orders.folder)
    config = from_mapping(RunConfig, orders.config, "the run of the first process")
    arrays, saved = _read_arrays(folder), _read_saved(folder)
    (folder / f"{_READ}{orders.shard.rank}").touch()
    device = _join(folder, orders.shard, orders.device_type)
    done = len(saved.history) if saved is not None else 0
    with torch_settings(config.train), contextlib.suppress(NonFiniteError):  # the first process tells it
        run = build_run(config, arrays, saved, device, orders.shard)
        for _ in fit(run.step, run.batches, lambda model: None, config.train, epochs_done=done, rank=orders.shard.rank):
            pass


def _wait_until_read(folder: Path, others: list[Any]) -> None:
    """Wait until every other process has mapped the arrays; joining a group of NCCL does not wait for it."""
    while len(list(folder.glob(f"{_READ}*"))) < len(others):
        for rank, other in enumerate(others, start=1):
            if other.exitcode is not None:
                raise RuntimeError(f"data parallel: {_ended(folder, rank, other, ' at its start')}")
        time.sleep(0.01)


class _Watch:
    """Notices that another process died, and breaks off the collective that the first one may wait in."""

    def __init__(self, others: list[Any], folder: Path) -> None:
        self._dead = ""
        self._others, self._folder = others, folder
        self._wake, self._waker = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._watch, name="data-parallel watch", daemon=True)
        self._thread.start()

    def noticed(self) -> str:
        """Return which other process died and how; empty = none did."""
        self._thread.join(_NOTICED_SECONDS)
        return self._dead

    def end(self) -> None:
        """Stop watching; the others may be ended now."""
        self._waker.send(None)
        self._thread.join()

    def _watch(self) -> None:
        sentinels = {other.sentinel: (rank, other) for rank, other in enumerate(self._others, start=1)}
        found = multiprocessing.connection.wait([*sentinels, self._wake])
        dead = [sentinels[one] for one in found if one in sentinels]
        if dead and self._wake not in found:
            rank, other = dead[0]
            other.join()
            for _ in range(100):  # another thread may have taken its code from the system and not noted it yet
                if other.exitcode is not None:
                    break
                time.sleep(0.01)
            self._dead = _ended(self._folder, rank, other)
            if dist.is_initialized() and dist.get_backend() == "nccl":  # Gloo notices by itself
                dist.distributed_c10d._abort_process_group()


def _die_with(parent: int | None) -> None:
    """End this process when its parent is gone: it would wait in a collective for ever."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _write_arrays(folder: Path, arrays: TrialArrays) -> None:
    def write(name: str, values: Mapping[str, Any]) -> None:
        for field, value in values.items():
            np.save(folder / f"{name}.{field}.npy", np.asarray(value), allow_pickle=False)

    write("split", arrays.split._asdict())
    for name, features in (("text", arrays.text), ("image", arrays.image)):
        write(name, {"num_rows": features.num_rows, "num_shards": len(features.shards)})
        for number, shard in enumerate(features.shards):
            write(f"{name}.{number}", shard._asdict())


def _read_arrays(folder: Path) -> TrialArrays:
    def read(name: str, field: str) -> np.ndarray:
        array: np.ndarray = np.load(folder / f"{name}.{field}.npy", mmap_mode="r", allow_pickle=False)
        return array

    def features(name: str) -> RaggedFeatures:
        names = [f"{name}.{number}" for number in range(int(read(name, "num_shards")))]
        shards = [FeatureShard(*(read(one, field) for field in FeatureShard._fields)) for one in names]
        return RaggedFeatures.joined(shards, int(read(name, "num_rows")))

    split = DevelopmentSplit(
        item_rows=read("split", "item_rows"),
        offsets=read("split", "offsets"),
        items=read("split", "items"),
        max_seq_len=int(read("split", "max_seq_len")),
    )
    return TrialArrays(split, features("text"), features("image"))


def _write_saved(folder: Path, saved: Checkpoint) -> None:
    content = {"epoch": saved.epoch, "weights": saved.weights, "state": saved.state, "history": saved.history}
    torch.save(content, folder / _SAVED)


def _read_saved(folder: Path) -> Checkpoint | None:
    """Read the state to start from, a copy of this process's own: an optimiser goes on in the tensors it is given."""
    path = folder / _SAVED
    return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True)) if path.exists() else None
