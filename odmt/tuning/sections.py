"""The sections of a space file that say how to search: sampler, scheduler, budget, resources; and how to prepare."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from odmt.config import PrepareConfig, Section
from odmt.config.base import at_least, not_finite

READ_BY = {
    "startup_trials": ("tpe", "gp", "cmaes"),
    "multivariate": ("tpe",),
    "ei_candidates": ("tpe",),
    "population_size": ("nsga2", "cmaes"),
    "crossover_prob": ("nsga2",),
    "mutation_prob": ("nsga2",),
    "sigma": ("cmaes",),
    "sequence": ("qmc",),
    "scramble": ("qmc",),
    "grace_period": ("asha", "median"),
    "reduction_factor": ("asha",),
    "brackets": ("asha",),
    "sentinels": ("asha", "median"),
    "min_trials": ("median",),
}
"""Settings that only some samplers or schedulers read; a sampler's, set for another one, are an error."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(Section):
    """What proposes values."""

    name: Literal["tpe", "random", "grid", "gp", "cmaes", "qmc", "nsga2"] = "tpe"
    """``tpe``: Optuna's TPE; ``random``: independent draws; ``grid``: every combination in order; ``gp``: a Gaussian
    process; ``cmaes``: CMA-ES, without choices and conditions; ``qmc``: a low-discrepancy sequence, without
    conditions; ``nsga2``: NSGA-II, made for several objectives."""

    seed: int = 1
    """Proposal n is drawn by a fresh sampler seeded with a hash of this seed and n."""

    startup_trials: int = 10
    """``tpe``, ``gp`` and ``cmaes`` draw at random until so many trials have ended."""

    multivariate: bool = True
    """Of ``tpe``: one density over all axes (grouped where axes are conditional); false: one an axis."""

    ei_candidates: int = 24
    """Of ``tpe``: candidates drawn of which the best is proposed."""

    population_size: int | None = None
    """Of ``nsga2`` and ``cmaes``: trials a generation; None = 50, or 4 + 3 ln(axes)."""

    crossover_prob: float = 0.9
    """Of ``nsga2``: probability that a child has two parents."""

    mutation_prob: float | None = None
    """Of ``nsga2``: probability that an axis is drawn anew; None = 1 / axes."""

    sigma: float | None = None
    """Of ``cmaes``: first step as a share of each range; None = a sixth."""

    sequence: Literal["sobol", "halton"] = "sobol"
    """Of ``qmc``."""

    scramble: bool = True
    """Of ``qmc``: scrambled by the seed; false: the plain sequence, which starts at every range's lower end."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from not_finite(self)
        yield from at_least(self, 0, "seed")
        yield from at_least(self, 1, "startup_trials", "ei_candidates")
        if self.population_size is not None:
            yield from at_least(self, 2, "population_size")
        for name in ("crossover_prob", "mutation_prob"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                yield f"{name}: {value} is not in [0, 1]"
        if self.sigma is not None and not self.sigma > 0:
            yield f"sigma: {self.sigma} is not above 0"
        for item in fields(self):
            readers = READ_BY.get(item.name)
            if readers and self.name not in readers and getattr(self, item.name) != item.default:
                yield f"{item.name}: sampler {self.name} has no {item.name}; it belongs to {', '.join(readers)}"


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig(Section):
    """What stops trials early. The longest a trial runs is ``train.max_epochs``."""

    name: Literal["asha", "median", "none"] = "asha"
    """``asha``: asynchronous successive halving, the stopping form; ``median``: the median stopping rule; ``none``:
    every trial runs to its last epoch, and the settings below rest."""

    grace_period: int = 1
    """Epoch of the first rung; no trial is stopped before it."""

    reduction_factor: float = 3.0
    """Of ``asha``: a trial goes on from a rung if it is in the best 1/reduction_factor of what was recorded there
    before it."""

    brackets: int = 1
    """Of ``asha``: bracket b has its first rung at ``grace_period * reduction_factor^b``; trials are dealt to brackets
    at random, most to those with most rungs."""

    sentinels: int = 0
    """So many trials, spread evenly over the budget, run to their last epoch whatever their rungs say: the report
    measures on them how far the rungs are to be trusted."""

    min_trials: int = 3
    """Of ``median``: nothing is stopped before so many other trials have been as far."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from at_least(self, 1, "grace_period", "brackets", "min_trials")
        yield from at_least(self, 0, "sentinels")
        if not 1 < self.reduction_factor < float("inf"):
            yield f"reduction_factor: {self.reduction_factor} is not a finite number above 1"
        for name in ("brackets", "min_trials"):
            default, readers = type(self).__dataclass_fields__[name].default, READ_BY[name]
            if self.name not in (*readers, "none") and getattr(self, name) != default:
                yield f"{name}: scheduler {self.name} has no {name}; it belongs to {', '.join(readers)}"


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(Section):
    """How much is tried; the first limit that is met ends the search."""

    trials: int = 16
    """Trials of the study, failed ones included."""

    time_hours: float | None = None
    """Hours of searching, over all starts of the study; None = no limit."""

    max_gpu_hours: float | None = None
    """GPU hours times the share of a GPU that a trial reserves; CPU hours where trials reserve no GPU; None = no
    limit."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from not_finite(self)
        yield from at_least(self, 1, "trials")
        for name in ("time_hours", "max_gpu_hours"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                yield f"{name}: {value} is not above 0"


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig(Section):
    """What a trial occupies, and what is done when it fails. May differ between starts of one study."""

    cpus_per_trial: float = 1.0
    """CPUs a trial reserves; its torch uses as many threads."""

    gpus_per_trial: float | None = None
    """GPUs a trial reserves; ``auto`` (None here) = ``train.data_parallel`` where the cluster has any, else 0."""

    max_concurrent_trials: int | None = None
    """Trials at once; None = as many as fit."""

    accelerator_type: str | None = None
    """GPUs of this type alone, as Ray names them, such as ``A100``; None = any."""

    max_retries: int = 2
    """Further attempts at a trial whose worker died, hung or met a fault of the machine. Out of memory is tried once
    more, with ``train.recompute_items``; errors of the trial itself are not tried again."""

    retry_wait_seconds: float = 5.0
    """Wait before another attempt; twice as long before each further one."""

    report_timeout_minutes: float = 180.0
    """A trial that has not reported for so long is ended and counts as hung."""

    reuse_workers: bool = True
    """A worker process runs one trial after another; false: a new process each, several seconds more a trial."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from not_finite(self)
        if not self.cpus_per_trial > 0:
            yield f"cpus_per_trial: {self.cpus_per_trial} is not above 0"
        elif self.cpus_per_trial > 1 and not self.cpus_per_trial.is_integer():
            yield f"cpus_per_trial: {self.cpus_per_trial} is neither whole nor below 1"
        if self.gpus_per_trial is not None:
            if not self.gpus_per_trial >= 0:
                yield f"gpus_per_trial: {self.gpus_per_trial} is below 0"
            elif self.gpus_per_trial > 1 and not self.gpus_per_trial.is_integer():
                yield f"gpus_per_trial: {self.gpus_per_trial} is neither whole nor below 1"
        if self.max_concurrent_trials is not None:
            yield from at_least(self, 1, "max_concurrent_trials")
        if self.accelerator_type is not None and (not self.accelerator_type or self.gpus_per_trial == 0):
            yield f"accelerator_type: {self.accelerator_type!r} needs trials that reserve a GPU"
        yield from at_least(self, 0, "max_retries", "retry_wait_seconds")
        if not self.report_timeout_minutes > 0:
            yield f"report_timeout_minutes: {self.report_timeout_minutes} is not above 0"


SECTIONS: dict[str, type[Section]] = {
    "sampler": SamplerConfig,
    "scheduler": SchedulerConfig,
    "budget": BudgetConfig,
    "resources": ResourcesConfig,
    "prepare": PrepareConfig,
}
