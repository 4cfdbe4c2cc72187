"""Can the rungs be trusted? Rank correlation between the value at a rung and the value at the end."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scipy import stats

from odmt.config import from_mapping
from odmt.tuning.report.facts import COMPLETED, Facts, max_epochs
from odmt.tuning.scheduler import rungs
from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.state import Trial

LEAST = 3
"""Below so many trials there is no rank correlation to speak of."""

FEW = 10
"""Below so many a coefficient is a hint at most."""


class RungTrust(NamedTuple):
    """How well the order at a rung foretells the order at the end, over one group of trials."""

    rung: int
    group: str
    """``sentinels``: chosen beforehand, not selected by what is measured; ``completed``: all that ran to the end."""
    n: int
    spearman: float | None
    kendall: float | None
    spearman_best: float | None
    """The same with each trial's best epoch instead of its last; the rung itself may be that epoch."""
    note: str


def study_rungs(facts: Facts) -> list[int]:
    """Return the epochs at which trials of this study are compared."""
    config = from_mapping(SchedulerConfig, facts.identity["scheduler"], f"study {facts.name}")
    kinds = {(max_epochs(trial), trial.bracket) for trial in facts.trials}
    kinds = kinds or {(int(facts.identity["config"]["train"]["max_epochs"]), 0)}
    return sorted({rung for last, bracket in kinds for rung in rungs(config, last, bracket)})


def rung_trust(facts: Facts) -> list[RungTrust]:
    """Return a row for each rung and group: sentinels first, then all completed trials."""
    return list(_rows(facts))


def _rows(facts: Facts) -> Iterator[RungTrust]:
    to_the_end = [trial for trial in facts.trials if trial.state == COMPLETED]
    groups = {"sentinels": [trial for trial in to_the_end if trial.sentinel], "completed": to_the_end}
    for group, trials in groups.items():
        for rung in study_rungs(facts):
            yield _row(facts, group, rung, [trial for trial in trials if len(trial.epochs) > rung])


def _row(facts: Facts, group: str, rung: int, trials: Sequence[Trial]) -> RungTrust:
    value = facts.objectives[0].of
    at_rung = [value(trial.epochs[rung - 1]) for trial in trials]
    at_end = [value(trial.epochs[-1]) for trial in trials]
    if len(trials) < LEAST:
        return RungTrust(rung, group, len(trials), None, None, None, "too few")
    if len(set(at_rung)) == 1 or len(set(at_end)) == 1:
        return RungTrust(rung, group, len(trials), None, None, None, "not defined: all values are equal")
    notes = ["biased by selection"] if group == "completed" else []
    notes += ["few: a hint at most"] if len(trials) < FEW else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spearman = float(stats.spearmanr(at_rung, at_end).statistic)
        kendall = float(stats.kendalltau(at_rung, at_end).statistic)
        best = float(stats.spearmanr(at_rung, [facts.value(trial) for trial in trials]).statistic)
    return RungTrust(rung, group, len(trials), spearman, kendall, best if best == best else None, "; ".join(notes))
