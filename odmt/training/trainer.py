"""The training loop: a generator that yields after every epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from odmt.config import DistillConfig, TrainConfig
from odmt.errors import NonFiniteError
from odmt.model.losses import Objective, distillation_weight
from odmt.model.recommender import Batch, SequentialRecommender
from odmt.training.optim import choose_precision, learning_rate_factor
from odmt.training.seeding import seed_torch

Valid = TypeVar("Valid")

MOST_OVERFLOWS = 20
"""The loss scale starts at 2^16: a gradient that overflows after so many halvings is not finite in itself."""


class TrainedEpoch(NamedTuple, Generic[Valid]):
    """What one epoch gave.

    Attributes:
        epoch: counted from 1.
        train: mean ``loss``, ``ce`` and ``kd`` over the steps.
        valid: what validation found after the epoch.
        seconds: training and validation together.
    """

    epoch: int
    train: dict[str, float]
    valid: Valid
    seconds: float


class Step:
    """One optimiser step over batches whose gradients are averaged, over all processes if there are several."""

    def __init__(
        self,
        model: SequentialRecommender,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        distill: DistillConfig,
        *,
        steps_per_epoch: int = 1,
    ) -> None:
        """Choose the precision of the model's device; in a process group, average gradients over it."""
        self.model = model
        self.optimizer = optimizer
        self.train = train
        self.distill = distill
        self.steps_per_epoch = steps_per_epoch
        self.device = next(model.parameters()).device
        precision = choose_precision(train.precision, self.device)
        self.autocast_dtype = precision.autocast
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision.scale_loss)
        self.overflows = 0
        self.parallel = _in_parallel(model) if dist.is_initialized() else None

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context that the model's products run in."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def __call__(self, group: Sequence[Batch], epoch: int, number: int = 0) -> dict[str, float]:
        """Take the step.

        Args:
            group: batches; negatives are local to each.
            epoch: counted from 1; decides the weight of the distillation and, with ``number``, the learning rate.
            number: which step of the epoch, from 0.

        Returns:
            Mean ``loss``, ``ce`` and ``kd``.

        Raises:
            NonFiniteError: the loss or the gradient is not finite; the weights are as before the step. A scaled fp16
                gradient may overflow: its step is skipped and the scale halved, ``MOST_OVERFLOWS`` times in a row.
        """
        objective = self._objective(epoch)
        self._set_learning_rate((epoch - 1) * self.steps_per_epoch + number)
        self.optimizer.zero_grad(set_to_none=True)
        forward = self.model if self.parallel is None else self.parallel
        totals = torch.zeros(3, device=self.device)
        for index, batch in enumerate(group):
            with self._synchronised(index == len(group) - 1):
                with self.autocast():
                    terms = forward(batch, objective)
                totals += torch.stack([value.detach().float() for value in terms]) / len(group)
                self.scaler.scale(terms.loss / len(group)).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.train.grad_clip, foreach=True)
        found = self._checked(totals, norm, epoch)
        self.scaler.step(self.optimizer)  # skips the step itself when scaled fp16 gradients overflowed
        self.scaler.update()
        return found

    def _objective(self, epoch: int) -> Objective:
        distill = self.distill
        weight = distillation_weight(epoch, distill.rampup_epochs, distill.weight)
        return Objective(weight, distill.temperature, distill.detach_teacher, distill.objective == "kl")

    def _set_learning_rate(self, done_steps: int) -> None:
        factor = learning_rate_factor(done_steps, self.steps_per_epoch, self.train)
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * factor

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if self.parallel is None or last else self.parallel.no_sync()

    def _checked(self, totals: Tensor, norm: Tensor, epoch: int) -> dict[str, float]:
        """Read the numbers once (a GPU is waited for once a step) and refuse the step if they are not finite."""
        if self.parallel is not None:  # all processes see the same mean and stop together
            dist.all_reduce(totals)
            totals /= dist.get_world_size()
        loss, ce, kd, gradient = torch.cat([totals, norm.detach().float().reshape(1)]).tolist()
        if not math.isfinite(loss):
            raise NonFiniteError(f"the training loss is {loss} in epoch {epoch}, before the step")
        self.overflows = 0 if math.isfinite(gradient) else self.overflows + 1
        if self.overflows > (MOST_OVERFLOWS if self.scaler.is_enabled() else 0):
            raise NonFiniteError(f"the gradient's norm is {gradient} in epoch {epoch}, before the step")
        return {"loss": loss, "ce": ce, "kd": kd}


def _in_parallel(model: SequentialRecommender) -> nn.parallel.DistributedDataParallel:
    device = next(model.parameters()).device
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )


def fit(
    step: Step,
    steps: Callable[[int], Iterable[list[Batch]]],
    validate: Callable[[SequentialRecommender], Valid],
    train: TrainConfig,
    *,
    epochs_done: int = 0,
    rank: int = 0,
) -> Iterator[TrainedEpoch[Valid]]:
    """Train, yielding after every epoch; stop consuming to stop training.

    Args:
        step: takes one optimiser step.
        steps: gives an epoch's steps, each a group of batches.
        validate: measures the model; called after every epoch, the last one too.
        train: how long.
        epochs_done: epochs that an earlier part of the run has finished.
        rank: of this process; each has dropout masks of its own.

    Raises:
        NonFiniteError: a loss, gradient or score is NaN or infinite. Weights are those of the last finished step.
    """
    for epoch in range(epochs_done + 1, train.max_epochs + 1):
        started = time.perf_counter()
        step.model.train()
        seed_torch(train.seed, "dropout", rank, epoch)
        found = [step(group, epoch, number) for number, group in enumerate(steps(epoch))]
        means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        valid = validate(step.model)  # in float32: rounded scores tie, and ties count against the target
        yield TrainedEpoch(epoch, means, valid, time.perf_counter() - started)
