"""Time a few optimiser steps and a little of a validation, on this machine, without Ray."""

import contextlib
import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from odmt.config import RunConfig, replace_values
from odmt.data.split import Targets
from odmt.errors import OdmtError
from odmt.evaluation.evaluator import Evaluator
from odmt.experiment.arrays import TrialArrays
from odmt.experiment.build import Run, build_evaluator, build_run, choose_device, validation_targets
from odmt.training.batches import Shard
from odmt.training.optim import torch_settings
from odmt.tuning.plan import Pace

STEPS = 5
"""Timed, after one that is not: the first builds what later ones reuse."""
MOST_SECONDS = 30.0
"""No further step is begun after so long."""
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


@dataclass(frozen=True)
class Probe:
    """What a configuration took.

    Attributes:
        values: of the axes.
        device: where.
        step_seconds: of an optimiser step; 0 where there is a problem.
        steps: an epoch.
        train_seconds: of an epoch's steps, extrapolated.
        validation_seconds: of one validation, extrapolated.
        peak_bytes: most memory: allocated on the GPU, or grown by the process; features that the process holds count
            on the GPU alone.
        problem: why it could not be timed; None = it could.
    """

    values: Mapping[str, Any]
    device: str
    step_seconds: float = 0.0
    steps: int = 0
    train_seconds: float = 0.0
    validation_seconds: float = 0.0
    peak_bytes: int = 0
    problem: str | None = None

    @property
    def epoch_seconds(self) -> float:
        """Of training and validation together."""
        return self.train_seconds + self.validation_seconds


def pace_of(smallest: Probe, largest: Probe) -> Pace | None:
    """Return the pace between both, halfway; by the one that ran where the other did not; None = neither did."""
    ran = [probe.epoch_seconds for probe in (smallest, largest) if probe.problem is None]
    if not ran:
        return None
    words = "halfway between the smallest and the largest" if len(ran) == 2 else "of the one that could be timed"
    return Pace(sum(ran) / len(ran), f"measured now on {smallest.device}, {words}", min(ran), max(ran))


def measure(
    config: RunConfig,
    arrays: TrialArrays,
    values: Mapping[str, Any],
    *,
    threads: int = 1,
    gpu_share: float = 0.0,
    device: str | None = None,
    steps: int = STEPS,
) -> Probe:
    """Time one configuration; nothing of it stays.

    Args:
        config: of a trial. Of several processes the first one's share is timed, without their talk.
        arrays: what it reads.
        values: of the axes, for the reader.
        threads: of torch, as a trial has them.
        gpu_share: part of a GPU's memory that a trial may take.
        device: as torch names it; None = as a trial chooses it.
        steps: timed ones, at most.
    """
    where = choose_device(device)
    with _as_a_trial(where, threads, gpu_share), torch_settings(config.train):
        before = _start_counting(where)
        try:
            found = _timed(config, arrays, where, steps)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            return Probe(values, str(where), problem=f"out of memory: {str(error).splitlines()[0]}")
        except OdmtError as error:
            return Probe(values, str(where), problem=str(error))
        return Probe(values, str(where), peak_bytes=max(0, _peak(where) - before), **found)


def _timed(config: RunConfig, arrays: TrialArrays, where: torch.device, steps: int) -> dict[str, Any]:
    if config.loss.gathered_negatives:  # with processes that are not there
        config = replace_values(config, {"loss.gathered_negatives": False}, "probe")
    run = build_run(config, arrays, None, where, Shard(0, config.train.data_parallel))
    run.step.model.train()
    seconds = _step_seconds(run, where, steps)
    evaluator = build_evaluator(config, arrays, validation_targets(arrays), run.features)
    return {
        "step_seconds": seconds,
        "steps": len(run.batches),
        "train_seconds": seconds * len(run.batches),
        "validation_seconds": _validation_seconds(run, evaluator, config, where),
    }


def _step_seconds(run: Run, where: torch.device, steps: int) -> float:
    """Return the mean seconds of a step, gathering its features included; the first one is not counted."""
    begun, spent, counted = time.perf_counter(), 0.0, 0
    batches = iter(run.batches(1))
    for number in range(steps + 1):
        started = time.perf_counter()
        group = next(batches, None)
        if group is None:
            break
        run.step(group, 1, number)
        _finish(where)
        if number or len(run.batches) == 1:
            spent, counted = spent + time.perf_counter() - started, counted + 1
        if counted and time.perf_counter() - begun > MOST_SECONDS:
            break
    return spent / counted


def _validation_seconds(run: Run, evaluator: Evaluator, config: RunConfig, where: torch.device) -> float:
    """Return the seconds of a whole validation, from one chunk of items and one batch of users."""
    model, size = run.step.model.eval(), config.train.eval_batch_size
    items = run.features.num_items
    item_ids, groups = next(evaluator.item_chunks())
    started = time.perf_counter()
    with torch.no_grad(), torch.autocast(where.type, enabled=False):
        branches = model.encode_items(item_ids, groups)
    _finish(where)
    encoding = (time.perf_counter() - started) * items / len(item_ids)
    few = _first_users(evaluator.targets, size)
    table = tuple(torch.randn(items + 1, branch.shape[1], device=where) for branch in branches)
    started = time.perf_counter()
    Evaluator(few, evaluator.item_chunks, config.data.max_seq_len, size, rank_repeat_targets=True).ranks(model, table)
    _finish(where)
    return encoding + (time.perf_counter() - started) * evaluator.targets.num_users / few.num_users


def _first_users(targets: Targets, count: int) -> Targets:
    count = min(count, targets.num_users)
    offsets = targets.offsets[: count + 1]
    return targets._replace(offsets=offsets, history=targets.history[: offsets[-1]], target=targets.target[:count])


@contextmanager
def _as_a_trial(where: torch.device, threads: int, gpu_share: float) -> Iterator[None]:
    """Give torch what a trial has; afterwards all is as it was and the memory is given back."""
    before = torch.get_num_threads()
    fenced = where.type == "cuda" and 0 < gpu_share < 1
    torch.set_num_threads(threads)
    if fenced:
        torch.cuda.set_per_process_memory_fraction(gpu_share, where)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        gc.collect()
        if where.type == "cuda":
            torch.cuda.empty_cache()
        if fenced:
            torch.cuda.set_per_process_memory_fraction(1.0, where)


def _finish(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def _start_counting(where: torch.device) -> int:
    """Forget the peak so far; return the memory in use now."""
    gc.collect()
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        return 0
    with contextlib.suppress(OSError):  # else it counts from the process's start, and the peak is an upper bound
        Path("/proc/self/clear_refs").write_text("5")  # what VmHWM has seen so far
    return _kilobytes("VmRSS") * 1024


def _peak(where: torch.device) -> int:
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    return _kilobytes("VmHWM") * 1024


def _kilobytes(name: str) -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(status.split(f"{name}:")[1].split()[0])


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _NO_MEMORY)
