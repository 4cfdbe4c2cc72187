"""The sections of a space file that say how to search: sampler, scheduler, budget, resources; and how to prepare."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from odmt.config import PrepareConfig, Section


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(Section):
    """What proposes values."""

    name: Literal["tpe", "random", "grid"] = "tpe"
    """``tpe``: Optuna's multivariate TPE, grouped where axes are conditional; ``grid``: every combination in order."""

    seed: int = 1
    """Proposal n is drawn by a fresh sampler seeded with a hash of this seed and n."""

    startup_trials: int = 10
    """TPE draws at random until so many trials have ended."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        if self.seed < 0:
            yield f"seed: {self.seed} is below 0"
        if self.startup_trials < 1:
            yield f"startup_trials: {self.startup_trials} is below 1"


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig(Section):
    """What stops trials early. The longest a trial runs is ``train.max_epochs``."""

    name: Literal["asha", "none"] = "asha"
    """``asha``: asynchronous successive halving, the stopping form; ``none``: every trial runs to its last epoch."""

    grace_period: int = 1
    """Epoch of the first rung."""

    reduction_factor: float = 3.0
    """A trial goes on from a rung if it is in the best 1/reduction_factor of what was recorded there before it."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        if self.grace_period < 1:
            yield f"grace_period: {self.grace_period} is below 1"
        if not 1 < self.reduction_factor < float("inf"):
            yield f"reduction_factor: {self.reduction_factor} is not a finite number above 1"


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(Section):
    """How much is tried."""

    trials: int = 16
    """Trials of the study, failed ones included."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        if self.trials < 1:
            yield f"trials: {self.trials} is below 1"


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig(Section):
    """What a trial occupies. May differ between starts of one study."""

    cpus_per_trial: float = 1.0
    """CPUs a trial reserves; its torch uses as many threads."""

    gpus_per_trial: float | None = None
    """GPUs a trial reserves; ``auto`` (None here) = ``train.data_parallel`` where the cluster has any, else 0."""

    max_concurrent_trials: int | None = None
    """Trials at once; None = as many as fit."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        if not 0 < self.cpus_per_trial < float("inf"):
            yield f"cpus_per_trial: {self.cpus_per_trial} is not above 0"
        elif self.cpus_per_trial > 1 and not self.cpus_per_trial.is_integer():
            yield f"cpus_per_trial: {self.cpus_per_trial} is neither whole nor below 1"
        if self.gpus_per_trial is not None and not 0 <= self.gpus_per_trial < float("inf"):
            yield f"gpus_per_trial: {self.gpus_per_trial} is below 0"
        if self.max_concurrent_trials is not None and self.max_concurrent_trials < 1:
            yield f"max_concurrent_trials: {self.max_concurrent_trials} is below 1"


SECTIONS: dict[str, type[Section]] = {
    "sampler": SamplerConfig,
    "scheduler": SchedulerConfig,
    "budget": BudgetConfig,
    "resources": ResourcesConfig,
    "prepare": PrepareConfig,
}
