"""One training run: built, resumed where it stopped, trained, checkpointed."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from odmt.config import RunConfig
from odmt.evaluation.evaluator import Evaluation, Evaluator
from odmt.evaluation.metrics import SELECTION_METRIC
from odmt.experiment.arrays import TrialArrays
from odmt.experiment.build import build_evaluator, build_run, choose_device, validation_targets
from odmt.experiment.parallel import process_group
from odmt.model.recommender import SequentialRecommender
from odmt.training.checkpoint import Checkpoint, CheckpointFolder, best_epoch_of
from odmt.training.optim import torch_settings
from odmt.training.trainer import Step, TrainedEpoch, fit

SELECTION = f"valid/{SELECTION_METRIC}"
"""Epochs, trials and checkpoints are chosen by the highest value of this metric."""
PARAMETERS, SECONDS_PER_USER = "cost/parameters", "cost/seconds_per_user"
"""What a model costs: trainable numbers; time to encode all items and rank the validation users, by their count."""


class EpochResult(NamedTuple):
    """What a run tells after an epoch.

    Attributes:
        epoch: counted from 1.
        metrics: ``valid/...`` (fused head; the others as ``valid/<head>/...``), ``train/{loss,ce,kd}``, ``cost/...``.
        seconds: training and validation together.
        checkpoint: folder of the state after this epoch; None where none was due.
        is_last: the run ends here: its last epoch, or early stopping.
        replayed: told from a checkpoint, not run now.
    """

    epoch: int
    metrics: dict[str, float]
    seconds: float
    checkpoint: Path | None
    is_last: bool = False
    replayed: bool = False


def training_run(
    config: RunConfig,
    arrays: TrialArrays,
    *,
    checkpoints: CheckpointFolder | None = None,
    device: str | None = None,
) -> Iterator[EpochResult]:
    """Train one configuration, yielding after every epoch; stop consuming to stop.

    Where the folder holds a checkpoint the run goes on from it exactly; the epochs that it records are yielded first,
    again, so that what was saved but never told is told, not run twice. With ``train.data_parallel`` above 1 this
    process is the first of as many, and starts and ends the others.

    Args:
        config: the run.
        arrays: what it reads.
        checkpoints: where its state goes; None = nowhere.
        device: as torch names it; None = the first visible GPU, else the CPU.

    Raises:
        NonFiniteError: a loss, gradient or score is NaN or infinite.
        CheckpointError: there are checkpoints and none can be read.
        ConfigError: the configuration does not fit the data, or wants more GPUs than are visible.
    """
    where = choose_device(device)
    saved = checkpoints.load_latest(where) if checkpoints is not None else None
    history = saved.history if saved is not None else []
    ended_at = _ended_at(config, history)
    for entry in history:
        path = checkpoints.of_epoch(entry["epoch"]) if checkpoints is not None else None
        yield EpochResult(entry["epoch"], entry["metrics"], entry["seconds"], path, entry["epoch"] == ended_at, True)
    if ended_at is not None:
        return
    with ExitStack() as stack:
        stack.enter_context(torch_settings(config.train))
        shard, where = stack.enter_context(process_group(config, arrays, saved, where))
        run = build_run(config, arrays, saved, where, shard)
        evaluator = build_evaluator(config, arrays, validation_targets(arrays), run.features)
        measured = _Timed(evaluator)
        epochs = fit(run.step, run.batches, measured, config.train, epochs_done=len(history))
        parameters = float(sum(weight.numel() for weight in run.step.model.parameters() if weight.requires_grad))
        for done in epochs:
            costs = {PARAMETERS: parameters, SECONDS_PER_USER: measured.seconds / evaluator.targets.num_users}
            history.append({"epoch": done.epoch, "seconds": done.seconds, "metrics": _named(done) | costs})
            is_last = _ended_at(config, history) is not None
            path = _save(checkpoints, run.step, history, done.valid, is_last) if checkpoints is not None else None
            yield EpochResult(done.epoch, history[-1]["metrics"], done.seconds, path, is_last)
            if is_last:
                return


class _Timed:
    """Measures a model, and how long that takes."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.seconds = 0.0

    def __call__(self, model: SequentialRecommender) -> Evaluation:
        started = time.perf_counter()
        found = self._evaluator.measure(model)
        self.seconds = time.perf_counter() - started
        return found


def _ended_at(config: RunConfig, history: list[dict[str, Any]]) -> int | None:
    """Return the epoch that ends a run, the last one done; None if it goes on."""
    if not history:
        return None
    epoch = int(history[-1]["epoch"])
    patience = config.train.early_stopping_patience
    worn_out = patience is not None and epoch - best_epoch_of(history, SELECTION) >= patience
    return epoch if worn_out or epoch >= config.train.max_epochs else None


def _named(done: TrainedEpoch[Evaluation]) -> dict[str, float]:
    valid = {f"valid/{name}": value for name, value in done.valid.metrics.items()}
    return valid | {f"train/{name}": value for name, value in done.train.items()}


def _save(
    checkpoints: CheckpointFolder, step: Step, history: list[dict[str, Any]], valid: Evaluation, is_last: bool
) -> Path | None:
    epoch = int(history[-1]["epoch"])
    best = best_epoch_of(history, SELECTION)
    if not checkpoints.is_due(epoch, last=is_last, best=best == epoch):
        return None
    state = {"optimizer": step.optimizer.state_dict(), "scaler": step.scaler.state_dict()}
    return checkpoints.save(Checkpoint(epoch, step.model.state_dict(), state, history, valid.ranks), best)
