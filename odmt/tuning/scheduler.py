"""Which trials go on: a pure function of what the event log says, keyed by our own trial ids.

``asha``: asynchronous successive halving, the stopping form (Li et al., MLSys 2020, arXiv 1810.05934), with the rule
of Ray's ASHAScheduler: the cutoff of a rung is the (1 - 1/reduction_factor) percentile of the values recorded there
before, the first trial at a rung survives, and so do ties. Ray's own one counts a resumed trial twice and forgets its
rungs. ``median``: the median stopping rule (Golovin et al., KDD 2017), as Ray's MedianStoppingRule.
"""

import math
import random
import statistics
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.seeds import seed_of
from odmt.tuning.state import COMPLETE, CONTINUE, FAIL, METRIC, STOP, Study, Trial


def rungs(config: SchedulerConfig, max_epochs: int, bracket: int = 0) -> list[int]:
    """Return the epochs at which trials are compared, ascending, all below ``max_epochs``.

    Milestones are ``grace_period * reduction_factor^(bracket + k)`` up to ``max_epochs``; each is met at the first
    epoch that has reached it and has met no higher one, as in Ray's bracket.
    """
    return list(_rung_epochs(config, max_epochs, bracket))


@lru_cache(maxsize=256)
def _rung_epochs(config: SchedulerConfig, max_epochs: int, bracket: int) -> tuple[int, ...]:
    if config.name != "asha":
        return ()
    factor = config.reduction_factor
    count = int(math.log(max_epochs / config.grace_period) / math.log(factor) - bracket + 1)
    milestones = [config.grace_period * factor ** (k + bracket) for k in range(count)]
    found: list[int] = []
    for epoch in range(1, max_epochs):
        reached = [milestone for milestone in milestones if milestone <= epoch]
        if reached:
            milestones.remove(reached[-1])
            found.append(epoch)
    return tuple(found)


def bracket_of(config: SchedulerConfig, max_epochs: int, seed: int, number: int) -> int:
    """Deal a trial to a bracket at random, with a weight of e^rungs, as Ray's ASHAScheduler does."""
    if config.name != "asha" or config.brackets == 1:
        return 0
    factor = config.reduction_factor
    sizes = [int(math.log(max_epochs / config.grace_period) / math.log(factor) - b + 1) for b in range(config.brackets)]
    weights = [math.exp(size - max(sizes)) for size in sizes]
    return random.Random(seed_of(seed, "bracket", number)).choices(range(config.brackets), weights)[0]


def is_sentinel(config: SchedulerConfig, trials: int, number: int) -> bool:
    """Say whether a trial is to run to its end: ``sentinels`` of them, spread evenly over the first ``trials``."""
    places = {(2 * k + 1) * trials // (2 * config.sentinels) for k in range(config.sentinels)}
    return number in places


def verdict(
    study: Study,
    config: SchedulerConfig,
    max_epochs: int,
    trial_id: str,
    epoch: int,
    metrics: Mapping[str, Any],
    *,
    is_last: bool = False,
) -> str:
    """Decide on a report that has not been recorded yet.

    Args:
        study: everything recorded so far.
        config: the scheduler's settings.
        max_epochs: where the trial is complete.
        trial_id: our own id of the trial.
        epoch: the epoch reported.
        metrics: what it reported.
        is_last: the run ends here by itself, no later than ``max_epochs``.

    Returns:
        ``fail`` where an objective is not a finite number, ``complete`` at the last epoch, ``stop`` below a rung's
        cutoff or the median, else ``continue``.
    """
    values = [metrics.get(name) for name, _ in study.objectives]
    if any(value is None or not math.isfinite(value) for value in values):
        return FAIL
    if is_last or epoch >= max_epochs:
        return COMPLETE
    trial, value = study.trials[trial_id], metrics[METRIC]
    if trial.sentinel or config.name == "none":
        return CONTINUE
    if config.name == "median":
        return _median_verdict(study, config, trial, epoch, value)
    if epoch not in _rung_epochs(config, max_epochs, trial.bracket):
        return CONTINUE
    limit = cutoff(study, config, trial_id, epoch)
    return STOP if limit is not None and value < limit else CONTINUE


def cutoff(study: Study, config: SchedulerConfig, trial_id: str, rung: int) -> float | None:
    """Return the value below which a trial is stopped at a rung of its bracket; None = no one has been there before."""
    bracket = study.trials[trial_id].bracket
    recorded = [
        trial.epochs[rung - 1].value
        for trial in study.trials.values()
        if trial.bracket == bracket
        and trial.trial_id != trial_id
        and len(trial.epochs) >= rung
        and math.isfinite(trial.epochs[rung - 1].value)
    ]
    if not recorded:
        return None
    import numpy as np  # a space is read and checked without it

    return float(np.percentile(recorded, (1 - 1 / config.reduction_factor) * 100))


def _median_verdict(study: Study, config: SchedulerConfig, trial: Trial, epoch: int, value: float) -> str:
    """Stop where the trial's best so far is below the median of the others' means from the grace period to here."""
    if epoch < config.grace_period:
        return CONTINUE
    means = [
        statistics.fmean(one.value for one in other.epochs[config.grace_period - 1 : epoch])
        for other in study.trials.values()
        if other.trial_id != trial.trial_id and len(other.epochs) >= epoch
    ]
    finite = [mean for mean in means if math.isfinite(mean)]
    if len(finite) < config.min_trials:
        return CONTINUE
    best = max([one.value for one in trial.epochs] + [value])
    return STOP if best < statistics.median(finite) else CONTINUE
