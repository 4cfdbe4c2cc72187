"""The training loop: a generator that yields after every epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import NamedTuple

import torch

from odmt.config import DistillConfig, TrainConfig
from odmt.errors import NonFiniteError
from odmt.model.losses import distillation_weight
from odmt.model.odmt import Batch, Odmt
from odmt.training.optim import choose_precision


class TrainedEpoch(NamedTuple):
    """What one epoch gave.

    Attributes:
        epoch: counted from 1.
        train: mean ``loss``, ``ce`` and ``kd`` over the batches.
        valid: metrics after the epoch.
        seconds: training and validation together.
    """

    epoch: int
    train: dict[str, float]
    valid: dict[str, float]
    seconds: float


class Step:
    """One optimiser step over a group of batches whose gradients are averaged."""

    def __init__(
        self, model: Odmt, optimizer: torch.optim.Optimizer, train: TrainConfig, distill: DistillConfig
    ) -> None:
        """Choose the precision of the model's device."""
        self.model = model
        self.optimizer = optimizer
        self.distill = distill
        self.grad_clip = train.grad_clip
        self.device = next(model.parameters()).device
        precision = choose_precision(train.precision, self.device)
        self.autocast_dtype = precision.autocast
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision.scale_loss)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the model computes."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def __call__(self, group: list[Batch], epoch: int) -> dict[str, float]:
        """Take the step; return the mean loss terms.

        Raises:
            NonFiniteError: a loss, or the gradient in full precision, is NaN or infinite; no step was taken.
        """
        weight = distillation_weight(epoch, self.distill.rampup_epochs, self.distill.weight)
        totals = {"loss": 0.0, "ce": 0.0, "kd": 0.0}
        self.optimizer.zero_grad(set_to_none=True)
        for batch in group:
            with self.autocast():
                terms = self.model(
                    batch,
                    kd_weight=weight,
                    temperature=self.distill.temperature,
                    detach_teacher=self.distill.detach_teacher,
                )
            for name, value in terms._asdict().items():
                totals[name] += value.item() / len(group)
            if not math.isfinite(totals["loss"]):
                raise NonFiniteError(f"the training loss is {totals['loss']} in epoch {epoch}, before the step")
            self.scaler.scale(terms.loss / len(group)).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise NonFiniteError(f"the gradient's norm is {norm.item()} in epoch {epoch}, before the step")
        self.scaler.step(self.optimizer)  # skips the step itself when scaled fp16 gradients overflowed
        self.scaler.update()
        return totals


def fit(
    step: Step,
    batches: Callable[[int], Iterable[Batch]],
    validate: Callable[[Odmt], dict[str, float]],
    train: TrainConfig,
    *,
    epochs_done: int = 0,
) -> Iterator[TrainedEpoch]:
    """Train, yielding after every epoch; stop consuming to stop training.

    Args:
        step: takes one optimiser step.
        batches: gives an epoch's batches.
        validate: measures the model; called after every epoch, the last one too.
        train: how long, and how many batches a step.
        epochs_done: epochs that an earlier part of the run has finished.

    Raises:
        NonFiniteError: a loss, gradient or score is NaN or infinite. Weights are those of the last finished step.
    """
    for epoch in range(epochs_done + 1, train.max_epochs + 1):
        started = time.perf_counter()
        step.model.train()
        totals: dict[str, float] = {}
        num_batches = 0
        remaining = iter(batches(epoch))
        while group := list(islice(remaining, train.accumulate_batches)):
            for name, value in step(group, epoch).items():
                totals[name] = totals.get(name, 0.0) + value * len(group)
            num_batches += len(group)
        means = {name: value / num_batches for name, value in totals.items()}
        valid = validate(step.model)  # in float32: rounded scores tie, and ties count against the target
        yield TrainedEpoch(epoch, means, valid, time.perf_counter() - started)
