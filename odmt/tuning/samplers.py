"""What is tried next: each proposal is a pure function of the space, the seed and what the event log says.

A fresh Optuna study and sampler are made for every proposal, so that nothing but the log has to survive a restart.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
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
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from odmt.tuning.axes import Axis
from odmt.tuning.optuna_samplers import ENDED_PLACE, is_kept, make_sampler
from odmt.tuning.space import Space
from odmt.tuning.state import Reuse, Study, Trial, WarmTrial

MOST_DRAWS = 50
"""After so many proposals in a row that equal earlier trials, what is left is listed."""
MOST_LISTED = 20_000
"""Of more combinations no list is made: the space then counts as exhausted."""


@dataclass(frozen=True)
class Proposal:
    """The values of one trial, and what Optuna wants to be told about them later.

    Attributes:
        source: ``incumbent``, ``sampler``, or ``warm-start STUDY/TRIAL``.
        equals: the earlier trial that is the same run, if there is one.
        study_attrs: what the sampler has changed at the study.
    """

    values: dict[str, Any]
    distributions: dict[str, str] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    study_attrs: dict[str, Any] = field(default_factory=dict)
    draws: int = 1
    source: str = "sampler"
    equals: str | None = None


def propose(space: Space, study: Study) -> Proposal | None:
    """Return the next proposal; None = every reachable combination has been tried, or seems to have been.

    The incumbent is the first, then come the warm start's values, best first. A proposal may equal an earlier trial:
    then the sampler is told that trial's result once more, and asked again.
    """
    if not study.trials:
        return _given(space, space.incumbent, "incumbent", {})
    tried = {space.canonical(trial.values): trial for trial in _repeatable(study)}
    if (taken := len(study.order) - 1) < len(study.queue):  # all proposals after the incumbent come from it first
        warm = study.queue[taken]
        return _given(space, {**space.incumbent, **warm.values}, f"warm-start {warm.study}/{warm.trial}", tried)
    if space.sampler.name == "grid":
        known = {space.canonical(trial.values) for trial in study.trials.values()}
        left = (values for values in grid(space) if space.canonical(values) not in known)
        return next((Proposal(values) for values in left), None)
    if study.reused_in_a_row >= MOST_DRAWS:
        return _left_over(space, tried)
    return _draw(space, study, study.reused_in_a_row + 1, tried)


def _repeatable(study: Study) -> Iterator[Trial]:
    """Yield the trials whose result an equal proposal would have: of this code, and not lost to broken machines."""
    lost = {record["trial"] for record in study.setbacks if not record["retry"] and record["what"] in ("died", "hung")}
    return (trial for trial in study.trials.values() if trial.code == study.code and trial.trial_id not in lost)


def _left_over(space: Space, tried: dict[str, Trial]) -> Proposal | None:
    """Return a combination that the sampler keeps missing; None = none is left, or they are too many to list."""
    listed = {path: axis.listed() for path, axis in space.axes.items()}
    if any(values is None for values in listed.values()):
        return None
    options = {path: values or () for path, values in listed.items()}
    if math.prod(map(len, options.values())) > MOST_LISTED:
        return None
    for values in _combinations(space, options):
        if space.canonical(values) not in tried:
            return Proposal(values, distributions(space, values), draws=MOST_DRAWS + 1)
    return None


def _given(space: Space, values: Mapping[str, Any], source: str, tried: Mapping[str, Trial]) -> Proposal:
    """Return a proposal that no sampler made."""
    chosen = {path: space.axes[path].exact(values[path]) for path in space.active_axes(values)}
    told = distributions(space, chosen)
    same = tried.get(space.canonical(chosen))
    return Proposal(chosen, told, source=source, equals=same.trial_id if same else None)


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Yield every combination of the axes that exist together, the last axis fastest."""
    return _combinations(space, {path: axis.grid_values() or () for path, axis in space.axes.items()})


def _combinations(space: Space, options: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for chosen in itertools.product(*options.values()):
        values = dict(zip(options, chosen, strict=True))
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


def distributions(space: Space, values: Iterable[str]) -> dict[str, str]:
    """Return how Optuna describes some axes, as the log holds it."""
    return {path: distribution_to_json(distribution(space.axes[path])) for path in values}


def rebuilt_study(space: Space, study: Study, sampler: BaseSampler) -> optuna.Study:
    """Tell Optuna everything in the log, in the order in which it was proposed.

    To TPE stopped trials are PRUNED. The other samplers would pass over pruned trials and stay random under a
    scheduler that stops most, so they are told COMPLETE. Failed trials are FAIL, the others RUNNING.
    """
    directions = ["maximize" if mode == "max" else "minimize" for _, mode in study.objectives]
    rebuilt = optuna.create_study(directions=directions, sampler=sampler)
    for name, value in study.study_attrs.items():
        rebuilt._storage.set_study_system_attr(rebuilt._study_id, name, value)
    metrics = [name for name, _ in study.objectives]
    for warm in study.evidence:
        rebuilt.add_trial(_frozen_evidence(warm, metrics))
    for item in study.order:
        if isinstance(item, Reuse):
            of = study.trials[item.of]
            rebuilt.add_trial(_frozen(space, of, metrics, item))
        else:
            rebuilt.add_trial(_frozen(space, study.trials[item], metrics))
    return rebuilt


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _frozen(space: Space, trial: Trial, metrics: list[str], reuse: Reuse | None = None) -> FrozenTrial:
    stopped = TrialState.PRUNED if space.sampler.name == "tpe" else TrialState.COMPLETE
    states = {"completed": TrialState.COMPLETE, "stopped": stopped, "failed": TrialState.FAIL}
    state = states.get(trial.state, TrialState.RUNNING)
    best = trial.best
    values = None
    if best is not None and state in (TrialState.COMPLETE, TrialState.PRUNED):
        values = [best.metrics[name] for name in metrics]
    source = reuse or trial
    told = {path: _distribution(text) for path, text in source.distributions.items()}
    several = len(metrics) > 1
    return create_trial(
        state=state,
        values=values,
        params=dict(source.values),
        distributions=told or {path: distribution(space.axes[path]) for path in source.values},
        system_attrs={**source.system_attrs, **({ENDED_PLACE: trial.place} if trial.is_ended else {})},
        intermediate_values={} if several else {epoch.epoch: epoch.value for epoch in trial.epochs},
    )


def _frozen_evidence(warm: WarmTrial, metrics: list[str]) -> FrozenTrial:
    told = {path: _distribution(text) for path, text in warm.distributions.items()}
    assert len(metrics) == 1  # what an earlier study knows is one metric; with several it gives proposals
    return create_trial(state=TrialState.COMPLETE, value=warm.value, params=dict(warm.values), distributions=told)


def _draw(space: Space, study: Study, draw: int, tried: dict[str, Trial]) -> Proposal:
    previous = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls multivariate, group and constant_liar experimental
            rebuilt = rebuilt_study(space, study, make_sampler(space, len(study.trials), draw))
            before = dict(rebuilt._storage.get_study_system_attrs(rebuilt._study_id))
            asked = rebuilt.ask()
            values: dict[str, Any] = {}
            active: list[str] = []
            for path, axis in space.axes.items():
                if space.is_active(axis, values, active):
                    values[path] = axis.exact(_suggest(asked, axis))
                    active.append(path)
            after = rebuilt._storage.get_study_system_attrs(rebuilt._study_id)
    finally:
        optuna.logging.set_verbosity(previous)
    frozen = rebuilt.get_trials(deepcopy=False)[-1]
    told = {path: distribution_to_json(item) for path, item in frozen.distributions.items()}
    kept = {name: value for name, value in frozen.system_attrs.items() if is_kept(name)}
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    same = tried.get(space.canonical(values))
    return Proposal(values, told, kept, changed, draw, equals=same.trial_id if same else None)


def _suggest(asked: optuna.Trial, axis: Axis) -> Any:
    told = distribution(axis)
    if isinstance(told, CategoricalDistribution):
        return asked.suggest_categorical(axis.path, told.choices)
    if isinstance(told, IntDistribution):
        return asked.suggest_int(axis.path, told.low, told.high, step=told.step, log=told.log)
    assert isinstance(told, FloatDistribution)
    return asked.suggest_float(axis.path, told.low, told.high, step=told.step, log=told.log)
