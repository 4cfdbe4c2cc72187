"""Which settings mattered, by Optuna's evaluators; a conditional axis is judged on the trials that have it.

Two targets, since neither is fair alone. ``best``: completed and stopped trials at their best epoch; a stopped trial
had fewer epochs to get there. ``rung``: every trial at the epoch of the first rung, all equally long; early.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    MeanDecreaseImpurityImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import TrialState, create_trial

from odmt.tuning.axes import same
from odmt.tuning.report.facts import Facts, Objective
from odmt.tuning.report.rung_trust import study_rungs
from odmt.tuning.report.words import condition_in_words
from odmt.tuning.samplers import distribution
from odmt.tuning.state import Trial

LEAST = 10
"""Below so many trials a share would be noise."""
FANOVA, MDI, PED_ANOVA = "fANOVA", "MDI", "PED-ANOVA"
_SEED = 0


class Importance(NamedTuple):
    """What one evaluator said about one target over one set of trials, or why it could not."""

    objective: str
    target: str
    """``best``, or ``epoch N``: the value of every trial at the first rung."""
    evaluator: str
    condition: str
    """Empty: all axes that every trial has. Else the condition of the axes that ``shares`` speaks of."""
    n: int
    shares: dict[str, float]
    """By dotted path. Shares of one row's axes sum to 1 where ``condition`` is empty."""
    problem: str | None


class _Scored(NamedTuple):
    values: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    score: float


def importances(facts: Facts) -> list[Importance]:
    """Return what every evaluator says, for every objective, target and condition."""
    return [found for objective in facts.objectives for found in _of_objective(facts, objective)]


def _of_objective(facts: Facts, objective: Objective) -> Iterator[Importance]:
    targets = {"best": [(trial, objective.of(trial.best)) for trial in facts.ranked()]}
    if objective == facts.objectives[0] and (first := study_rungs(facts)[:1]):
        reached = [trial for trial in facts.trials if len(trial.epochs) >= first[0]]
        targets[f"epoch {first[0]}"] = [(trial, objective.of(trial.epochs[first[0] - 1])) for trial in reached]
    for target, pairs in targets.items():
        scored = [_scored(facts, trial, score) for trial, score in pairs if math.isfinite(score)]
        for evaluator in (FANOVA, MDI, PED_ANOVA):
            for condition, paths, rows in _regimes(facts, scored, evaluator):
                shares, problem = _evaluate(evaluator, rows, paths, objective.is_max)
                if condition:
                    shares = {
                        path: share
                        for path, share in shares.items()
                        if condition_in_words(facts.axes[path]) == condition
                    }
                yield Importance(objective.metric, target, evaluator, condition, len(rows), shares, problem)


def _scored(facts: Facts, trial: Trial, score: float) -> _Scored:
    told = {path: json_to_distribution(text) for path, text in trial.distributions.items()}
    known = {path: told.get(path) or distribution(facts.axes[path]) for path in trial.values}
    return _Scored({path: _as_told(known[path], value) for path, value in trial.values.items()}, known, score)


def _as_told(told: BaseDistribution, value: Any) -> Any:
    """Return a choice as the very object among the choices: JSON may have turned 1.0 into 1."""
    if isinstance(told, CategoricalDistribution):
        return next((option for option in told.choices if same(option, value)), value)
    return value


def _regimes(
    facts: Facts, scored: Sequence[_Scored], evaluator: str
) -> Iterator[tuple[str, list[str], Sequence[_Scored]]]:
    """Yield sets of trials with the axes that all of them have: first all trials, then one set a condition.

    PED-ANOVA weighs the conditions itself, so it gets everything at once.
    """
    if evaluator == PED_ANOVA:
        yield "", list(facts.axes), scored
        return
    yield "", [path for path, axis in facts.axes.items() if not axis.when], scored
    for condition in dict.fromkeys(condition_in_words(axis) for axis in facts.axes.values() if axis.when):
        own = [path for path, axis in facts.axes.items() if condition_in_words(axis) == condition]
        rows = [row for row in scored if all(path in row.values for path in own)]
        yield condition, [path for path in facts.axes if all(path in row.values for row in rows)], rows


def _evaluate(
    name: str, rows: Sequence[_Scored], paths: Sequence[str], is_max: bool
) -> tuple[dict[str, float], str | None]:
    """Return the shares, or why there are none."""
    if len(rows) < LEAST:
        return {}, f"needs at least {LEAST} trials, there are {len(rows)}"
    if len({row.score for row in rows}) == 1:
        return {}, "all trials have the same value"
    varied = [path for path in paths if len({repr(row.values.get(path)) for row in rows}) > 1]
    if not varied:
        return {}, "no axis took more than one value"
    previous = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # evaluators warn where they are experimental
            study = _told(rows, is_max)
            # Sorted: the MDI of Optuna 5.0 labels its shares in the order of the names, whatever order it is given.
            params = None if name == PED_ANOVA else sorted(varied)
            shares = get_param_importances(study, evaluator=_evaluator(name, len(rows)), params=params)
    except Exception as error:  # an evaluator that fails is a line of the report, not its end
        return {}, f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"
    finally:
        optuna.logging.set_verbosity(previous)
    if not all(math.isfinite(share) for share in shares.values()):
        return {}, "the evaluator returned no finite shares"
    return {path: float(shares.get(path, 0.0)) for path in paths}, None


def _told(rows: Sequence[_Scored], is_max: bool) -> optuna.Study:
    study = optuna.create_study(direction="maximize" if is_max else "minimize")
    study.add_trials(
        [
            create_trial(
                state=TrialState.COMPLETE,
                value=row.score,
                params=dict(row.values),
                distributions=dict(row.distributions),
            )
            for row in rows
        ]
    )
    return study


def _evaluator(name: str, n: int) -> BaseImportanceEvaluator:
    if name == FANOVA:
        return FanovaImportanceEvaluator(n_trees=num_trees(n), seed=_SEED)
    if name == MDI:
        return MeanDecreaseImpurityImportanceEvaluator(seed=_SEED)
    return PedAnovaImportanceEvaluator(target_quantile=top_share(n))


def num_trees(n: int) -> int:
    """Return the trees of fANOVA: Optuna's 64, fewer for many trials (64 trees on 1,000 trials take 18 s)."""
    return max(16, min(64, 16_000 // n))


def top_share(n: int) -> float:
    """Return the share of trials that PED-ANOVA calls the best: a tenth, but at least five trials, at most half."""
    return min(0.5, max(0.1, 5 / n))
