"""One training run: built, resumed where it stopped, trained, checkpointed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from odmt.config import RunConfig
from odmt.evaluation.metrics import SELECTION_METRIC
from odmt.experiment.arrays import TrialArrays
from odmt.experiment.build import build_batches, build_evaluator, build_model, choose_device, validation_targets
from odmt.training.checkpoint import Checkpoint, CheckpointFolder, best_epoch_of
from odmt.training.optim import make_optimizer
from odmt.training.seeding import random_state, restore_random_state, seed_torch
from odmt.training.trainer import Step, TrainedEpoch, fit

SELECTION = f"valid/{SELECTION_METRIC}"
"""Epochs, trials and checkpoints are chosen by the highest value of this metric."""


class EpochResult(NamedTuple):
    """What a run tells after an epoch.

    Attributes:
        epoch: counted from 1.
        metrics: ``valid/...`` (fused head; the others as ``valid/<head>/...``), ``train/{loss,ce,kd}``.
        seconds: training and validation together.
        checkpoint: folder of the state after this epoch; None where none was due.
    """

    epoch: int
    metrics: dict[str, float]
    seconds: float
    checkpoint: Path | None


def training_run(
    config: RunConfig,
    arrays: TrialArrays,
    *,
    checkpoints: CheckpointFolder | None = None,
    device: str | None = None,
) -> Iterator[EpochResult]:
    """Train one configuration, yielding after every epoch; stop consuming to stop.

    Where the folder holds a checkpoint the run goes on from it exactly; the epochs that it records are yielded first,
    again, so that what was saved but never told is told, not run twice.

    Args:
        config: the run.
        arrays: what it reads.
        checkpoints: where its state goes; None = nowhere.
        device: as torch names it; None = the first visible GPU, else the CPU.

    Raises:
        NonFiniteError: a loss, gradient or score is NaN or infinite.
        CheckpointError: there are checkpoints and none can be read.
    """
    where = choose_device(device)
    model = build_model(config, arrays, where)
    step = Step(model, make_optimizer(model.parameters(), config.train), config.train, config.distill)
    seed_torch(config.train.seed, "dropout")
    history: list[dict[str, Any]] = []
    if checkpoints is not None and (saved := checkpoints.load_latest(where)) is not None:
        _restore(step, saved)
        history = saved.history
        for entry in history:
            path = checkpoints.of_epoch(entry["epoch"])
            yield EpochResult(entry["epoch"], entry["metrics"], entry["seconds"], path)
    evaluator = build_evaluator(config, arrays, validation_targets(arrays), where)
    epochs = fit(step, build_batches(config, arrays, where), evaluator.metrics, config.train, epochs_done=len(history))
    for done in epochs:
        history.append({"epoch": done.epoch, "seconds": done.seconds, "metrics": _named(done)})
        path = _save(checkpoints, step, history, config.train.max_epochs) if checkpoints is not None else None
        yield EpochResult(done.epoch, history[-1]["metrics"], done.seconds, path)


def _named(done: TrainedEpoch) -> dict[str, float]:
    valid = {f"valid/{name}": value for name, value in done.valid.items()}
    return valid | {f"train/{name}": value for name, value in done.train.items()}


def _save(checkpoints: CheckpointFolder, step: Step, history: list[dict[str, Any]], max_epochs: int) -> Path | None:
    epoch = int(history[-1]["epoch"])
    best = best_epoch_of(history, SELECTION)
    if not checkpoints.is_due(epoch, last=epoch == max_epochs, best=best == epoch):
        return None
    state = {
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "random": random_state(),
    }
    return checkpoints.save(Checkpoint(epoch, step.model.state_dict(), state, history), best)


def _restore(step: Step, saved: Checkpoint) -> None:
    step.model.load_state_dict(saved.weights)
    step.optimizer.load_state_dict(saved.state["optimizer"])
    if step.scaler.is_enabled():
        step.scaler.load_state_dict(saved.state["scaler"])
    restore_random_state(saved.state["random"])
