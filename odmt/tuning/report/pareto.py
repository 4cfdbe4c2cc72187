"""The trials that no other trial beats in every objective."""

import math
from collections.abc import Sequence

from odmt.tuning.report.facts import Facts
from odmt.tuning.state import Trial


def front(facts: Facts) -> list[Trial]:
    """Return the ranked trials that no other dominates, the best in the first objective first.

    A trial's point is what all objectives were at its best epoch: one model that exists.
    """
    trials = [trial for trial in facts.ranked() if all(math.isfinite(number) for number in point(facts, trial))]
    signed = [
        [-number if objective.is_max else number for objective, number in zip(facts.objectives, numbers, strict=True)]
        for numbers in (point(facts, trial) for trial in trials)
    ]
    return [trial for trial, is_free in zip(trials, non_dominated(signed), strict=True) if is_free]


def point(facts: Facts, trial: Trial) -> list[float]:
    """Return a trial's objectives at its best epoch."""
    return [objective.of(trial.best) for objective in facts.objectives]


def non_dominated(points: Sequence[Sequence[float]]) -> list[bool]:
    """Say for each point, all coordinates to be minimised, whether no other is as low in all and lower in one."""
    return [not any(_dominates(other, candidate) for other in points) for candidate in points]


def _dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
