"""What is tried next: each proposal is a pure function of the space, the seed and what the event log says.

A fresh Optuna study and sampler are made for every proposal, so that nothing but the log has to survive a restart.
"""

import hashlib
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from odmt.tuning.axes import Axis
from odmt.tuning.space import Space
from odmt.tuning.state import Study, Trial

MOST_DRAWS = 50
"""So many proposals in a row that equal earlier trials mean that the space is exhausted."""


@dataclass(frozen=True)
class Proposal:
    """The values of one trial, and what Optuna wants to be told about them later."""

    values: dict[str, Any]
    distributions: dict[str, str] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    draws: int = 1


def propose(space: Space, study: Study) -> Proposal | None:
    """Return the next trial's values; None = every reachable combination has been tried, or seems to have been.

    The incumbent is the first. A proposal that equals an earlier trial is drawn again.
    """
    if not study.trials:
        values = {path: space.axes[path].exact(space.incumbent[path]) for path in space.active_axes(space.incumbent)}
        return Proposal(values, {path: distribution_to_json(distribution(space.axes[path])) for path in values})
    tried = {space.canonical(trial.values) for trial in study.trials.values()}
    if space.sampler.name == "grid":
        left = (values for values in grid(space) if space.canonical(values) not in tried)
        return next((Proposal(values) for values in left), None)
    for draw in range(1, MOST_DRAWS + 1):
        proposal = _draw(space, study, draw)
        if space.canonical(proposal.values) not in tried:
            return proposal
    return None


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Yield every combination of the axes that exist together, the last axis fastest."""
    paths = list(space.axes)
    seen: set[str] = set()
    for options in itertools.product(*(space.axes[path].grid_values() or () for path in paths)):
        values = dict(zip(paths, options, strict=True))
        existing = {path: space.axes[path].exact(values[path]) for path in space.active_axes(values)}
        if (key := space.canonical(existing)) not in seen:
            seen.add(key)
            yield existing


def distribution(axis: Axis) -> BaseDistribution:
    """Return Optuna's description of an axis."""
    if axis.kind == "choice":
        return CategoricalDistribution(axis.values)
    if axis.kind in ("int", "logint"):
        return IntDistribution(int(axis.low), int(axis.high), log=axis.kind == "logint")
    if axis.kind == "quniform" and axis.is_whole:
        return IntDistribution(int(axis.low), int(axis.high), step=int(axis.q))
    step = axis.q if axis.kind == "quniform" else None
    return FloatDistribution(axis.low, axis.high, log=axis.kind == "loguniform", step=step)


def rebuilt_study(space: Space, study: Study, sampler: BaseSampler) -> optuna.Study:
    """Tell Optuna everything in the log: completed, stopped = PRUNED, failed = FAIL, the others as RUNNING."""
    rebuilt = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in study.trials.values():
        rebuilt.add_trial(_frozen(space, trial))
    return rebuilt


def _frozen(space: Space, trial: Trial) -> optuna.trial.FrozenTrial:
    states = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    state = states.get(trial.state, TrialState.RUNNING)
    best = trial.best
    value = best.value if best is not None and state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    told = {path: json_to_distribution(text) for path, text in trial.distributions.items()}
    return create_trial(
        state=state,
        value=value,
        params=dict(trial.values),
        distributions=told or {path: distribution(space.axes[path]) for path in trial.values},
        system_attrs=dict(trial.system_attrs),
        intermediate_values={epoch.epoch: epoch.value for epoch in trial.epochs},
    )


def _draw(space: Space, study: Study, draw: int) -> Proposal:
    previous = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls multivariate, group and constant_liar experimental
            rebuilt = rebuilt_study(space, study, make_sampler(space, len(study.trials), draw))
            asked = rebuilt.ask()
            values: dict[str, Any] = {}
            active: list[str] = []
            for path, axis in space.axes.items():
                if space.is_active(axis, values, active):
                    values[path] = axis.exact(_suggest(asked, axis))
                    active.append(path)
    finally:
        optuna.logging.set_verbosity(previous)
    frozen = rebuilt.get_trials(deepcopy=False)[-1]
    told = {path: distribution_to_json(item) for path, item in frozen.distributions.items()}
    return Proposal(values, told, dict(frozen.system_attrs), draw)


def make_sampler(space: Space, number: int, draw: int) -> BaseSampler:
    """Return the fresh sampler of one proposal, seeded by the space's seed, the trial's number and the draw."""
    text = f"{space.sampler.seed}:{number}:{draw}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    if space.sampler.name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(
        seed=seed,
        n_startup_trials=space.sampler.startup_trials,
        multivariate=True,
        group=any(axis.when for axis in space.axes.values()),
        constant_liar=True,
    )


def _suggest(asked: optuna.Trial, axis: Axis) -> Any:
    told = distribution(axis)
    if isinstance(told, CategoricalDistribution):
        return asked.suggest_categorical(axis.path, told.choices)
    if isinstance(told, IntDistribution):
        return asked.suggest_int(axis.path, told.low, told.high, step=told.step, log=told.log)
    assert isinstance(told, FloatDistribution)
    return asked.suggest_float(axis.path, told.low, told.high, step=told.step, log=told.log)
