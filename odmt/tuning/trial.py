"""What a worker does for one trial: views into shared memory in, one report an epoch out.

Workers are reused, so nothing may pass from one trial to the next: the run seeds what it draws from, and everything
else lives in this function's frame.
"""

import math
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from odmt.cluster.shared_features import SharedArrays, arrays_for, check_sample
from odmt.cluster.storage import error_file, trial_folder
from odmt.config import RunConfig, from_mapping
from odmt.errors import NonFiniteError, SharedFeaturesError
from odmt.experiment.run import EpochResult, training_run
from odmt.training.checkpoint import CheckpointFolder
from odmt.tuning.scheduler import rungs
from odmt.tuning.sections import SchedulerConfig

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

    Every way to fail ends in a report, not in an exception, so that the worker lives on for the next trial.
    """
    try:
        for report in reports(assignment, job):
            tune.report(report)
    except SharedFeaturesError as error:
        tune.report({"tainted": f"found by trial {assignment['trial_id']}: {error}"})
    except NonFiniteError as error:
        tune.report({"failed": str(error)})
    except Exception as error:
        path = error_file(Path(job.study_folder), assignment["trial_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        text = traceback.format_exc()
        path.write_text(text, encoding="utf-8")
        first_line = (str(error).splitlines() or [""])[0]
        tune.report({"failed": f"{type(error).__name__}: {first_line} (traceback: {path})", "traceback": text})


def reports(assignment: Mapping[str, Any], job: TrialJob) -> Iterator[dict[str, Any]]:
    """Yield what is reported after each epoch; shared rows are checked before each of them.

    Before, because a trial that its scheduler stops never returns from its last report.

    Raises:
        SharedFeaturesError: shared features were written to.
        NonFiniteError: a loss, gradient or score is NaN or infinite.
    """
    config = from_mapping(RunConfig, assignment["config"], f"trial {assignment['trial_id']}")
    _limit_torch(job)
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
            "host": socket.gethostname(),
        }


def _limit_torch(job: TrialJob) -> None:
    import torch

    torch.set_num_threads(job.threads)
    if 0 < job.gpu_share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(job.gpu_share)


def threads_for(cpus: float) -> int:
    """Return the torch threads of a trial that reserves so many CPUs."""
    return max(1, math.floor(cpus))
