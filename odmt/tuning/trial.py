"""What a worker does for one trial: views into shared memory in, one report an epoch out.

Workers are reused, so nothing may pass from one trial to the next: the run seeds what it draws from, and everything
else lives in this function's frame.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray import tune

from odmt.cluster.nodes import this_host
from odmt.cluster.shared_features import SharedArrays, arrays_for, check_sample
from odmt.cluster.storage import error_file, trial_folder
from odmt.config import RunConfig, from_mapping
from odmt.errors import ConfigError, NonFiniteError, SharedFeaturesError
from odmt.experiment.run import EpochResult, training_run
from odmt.tracking.redaction import redacted
from odmt.training.checkpoint import CheckpointFolder
from odmt.tuning import failures
from odmt.tuning.failures import free_memory, leave
from odmt.tuning.scheduler import rungs
from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.worker_log import WorkerLog

Runner = Callable[..., Iterator[EpochResult]]


@dataclass(frozen=True)
class TrialJob:
    """What is the same for every trial of a study.

    Attributes:
        study_folder: where trials keep their checkpoints.
        shared: references to splits, features and checksums.
        scheduler: epochs at its rungs are saved in any case.
        threads: of torch; a trial uses no more CPUs than it reserved.
        gpu_share: part of a GPU's memory that a trial may take.
        runner: ``training_run``, or a stand-in with its signature.
    """

    study_folder: str
    shared: SharedArrays
    scheduler: SchedulerConfig
    threads: int = 1
    gpu_share: float = 0.0
    runner: Runner = training_run


def run_trial(assignment: Mapping[str, Any], job: TrialJob) -> None:
    """Run one trial until it ends or its scheduler stops it; Tune's function trainable.

    Its first report only tells where it runs, so that a worker that dies before its first epoch has a host. Every way
    to fail ends in a report, not in an exception, so that the worker lives on for the next trial.
    """
    log = WorkerLog.installed()
    told = {"attempt": assignment["attempt"], "host": this_host()}
    tune.report({"began": True, "process": _process(), **told})
    ending = _ending(assignment, job)  # what the trial held is let go with its frames
    if ending is None:
        return
    if "failed" in ending:
        path = error_file(Path(job.study_folder), assignment["trial_id"])
        unexpected = ending.pop("unexpected")
        ending |= {name: redacted(text) for name, text in (*ending.items(), ("log_tail", log.tail)) if _is_told(name)}
        if leave(path, ending["traceback"], ending["log_tail"]) and unexpected:
            ending["failed"] += f" (traceback: {path})"
    free_memory()
    tune.report({**ending, **told})


def _ending(assignment: Mapping[str, Any], job: TrialJob) -> dict[str, Any] | None:
    """Report every epoch; return what is to be reported where the trial did not end by itself."""
    try:
        for report in reports(assignment, job):
            tune.report(packed(report))
        return None
    except SharedFeaturesError as error:
        return {"tainted": f"found by trial {assignment['trial_id']}: {error}"}
    except Exception as error:
        config = None
        with contextlib.suppress(ConfigError):
            config = _config(assignment)
        folder = trial_folder(Path(job.study_folder), assignment["trial_id"])
        if failures.is_fault_of_machine(error):
            raise  # this process ends with it, and counts as a worker that died
        found = failures.told(error, config, folder, gpu_share=job.gpu_share)
        return {**found, "unexpected": found["what"] == "error" and not isinstance(error, NonFiniteError)}


def packed(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report whose metrics Tune takes for one value: of each number it would keep a dozen statistics."""
    return {**report, "metrics": list(report["metrics"].items())}


def reports(assignment: Mapping[str, Any], job: TrialJob) -> Iterator[dict[str, Any]]:
    """Yield what is reported after each epoch; shared rows are checked before each of them.

    Before, because a trial that its scheduler stops never returns from its last report.

    Raises:
        SharedFeaturesError: shared features were written to.
        NonFiniteError: a loss, gradient or score is NaN or infinite.
    """
    config = _config(assignment)
    _limit_torch(job)
    _check_gpu(job)
    host = this_host()
    arrays, checked = arrays_for(job.shared, config)
    folder = CheckpointFolder(
        trial_folder(Path(job.study_folder), assignment["trial_id"]),
        attempt=assignment["attempt"],
        every_epochs=config.checkpoint.every_epochs,
        also_at=frozenset(rungs(job.scheduler, config.train.max_epochs)),
    )
    for result in job.runner(config, arrays, checkpoints=folder):
        turn = assignment["number"] * config.train.max_epochs + result.epoch
        for features, checksums in checked:
            check_sample(features, checksums, turn)
        yield {
            "epoch": result.epoch,
            "metrics": {name: float(value) for name, value in result.metrics.items()},
            "seconds": float(result.seconds),
            "checkpoint": str(result.checkpoint) if result.checkpoint else None,
            "is_last": bool(result.is_last),
            "replayed": bool(result.replayed),
            "attempt": assignment["attempt"],
            "host": host,
        }


def _limit_torch(job: TrialJob) -> None:
    """Take no more threads and GPU memory than were reserved; a worker's trial before may have had other limits."""
    import torch

    torch.set_num_threads(job.threads)
    if torch.cuda.is_available():
        share = job.gpu_share if 0 < job.gpu_share < 1 else 1.0
        for number in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(share, number)


def _check_gpu(job: TrialJob) -> None:
    """Refuse to train on the CPU where a GPU was reserved: the numbers would be those of another precision."""
    import torch

    if job.gpu_share > 0 and not torch.cuda.is_available():
        raise failures.MachineFault("a GPU was reserved for this trial, and torch sees none here")


def _config(assignment: Mapping[str, Any]) -> RunConfig:
    return from_mapping(RunConfig, assignment["config"], f"trial {assignment['trial_id']}")


def _is_told(name: str) -> bool:
    return name in ("failed", "traceback", "log_tail")


def _process() -> list[float]:
    """Return this process's id and when it began: together no other process has them."""
    return [os.getpid(), psutil.Process().create_time()]


def threads_for(cpus: float) -> int:
    """Return the torch threads of a trial that reserves so many CPUs."""
    return max(1, math.floor(cpus))
