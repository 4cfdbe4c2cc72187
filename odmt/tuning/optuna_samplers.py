"""Optuna's samplers, made fresh for one proposal, so that what they draw depends on seed and log alone."""

from typing import Any

from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from odmt.tuning.seeds import seed_of
from odmt.tuning.space import Space

ENDED_PLACE = "odmt:ended"
"""System attribute: where in the log the trial's end stands."""
_PICKLED = "optimizer:"


def is_kept(name: str) -> bool:
    """Say whether a system attribute goes into the event log: pickled optimisers do not."""
    return name != ENDED_PLACE and _PICKLED not in name


def make_sampler(space: Space, number: int, draw: int) -> BaseSampler:
    """Return the sampler of one proposal, seeded by the space's seed, the trial's number and the draw."""
    config = space.sampler
    seed = seed_of(config.seed, number, draw)
    if config.name == "random":
        return RandomSampler(seed=seed)
    if config.name == "gp":
        return GPSampler(seed=seed, n_startup_trials=config.startup_trials)
    if config.name == "cmaes":
        return ReplayedCmaEs(
            start_seed=seed_of(config.seed, "cmaes") >> 1,
            seed=seed,
            n_startup_trials=config.startup_trials,
            sigma0=config.sigma,
            popsize=config.population_size,
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )
    if config.name == "qmc":
        return QMCSampler(
            seed=config.seed,  # one sequence for the whole study; which point of it is next, the study's attributes say
            qmc_type=config.sequence,
            scramble=config.scramble,
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )
    if config.name == "nsga2":
        return NSGAIISampler(
            seed=seed,
            population_size=config.population_size or 50,
            mutation_prob=config.mutation_prob,
            crossover_prob=config.crossover_prob,
        )
    return TPESampler(
        seed=seed,
        n_startup_trials=config.startup_trials,
        n_ei_candidates=config.ei_candidates,
        multivariate=config.multivariate,
        group=config.multivariate and any(axis.when for axis in space.axes.values()),
        constant_liar=True,
    )


class ReplayedCmaEs(CmaEsSampler):
    """CMA-ES whose state is made anew from the trials' values.

    Optuna's own keeps a pickled optimiser at its trials. A log must not hold what runs code when it is read, so
    here every proposal begins with the start values and is told one generation after the other, each made of the
    first trials of it that ended.
    """

    def __init__(self, *, start_seed: int, **options: Any) -> None:
        """See CmaEsSampler; ``start_seed`` is the same for all proposals of a study."""
        super().__init__(**options)
        self._start_seed = start_seed
        self._completed: list[FrozenTrial] = []

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> None:
        self._completed = completed_trials

    def _init_optimizer(self, trans: Any, direction: Any) -> Any:
        optimizer = super()._init_optimizer(trans, direction)
        optimizer._rng.seed(self._start_seed)
        sign = 1.0 if direction.name == "MINIMIZE" else -1.0
        while True:
            of_generation = self._get_solution_trials(self._completed, optimizer.generation)
            of_generation.sort(key=lambda trial: trial.system_attrs[ENDED_PLACE])
            if len(of_generation) < optimizer.population_size:
                return optimizer
            told = of_generation[: optimizer.population_size]
            optimizer.tell([(trans.transform(trial.params), sign * trial.value) for trial in told])
