"""Which trials go on: a pure function of what the event log says, keyed by our own trial ids.

Asynchronous successive halving, the stopping form (Li et al., MLSys 2020, arXiv 1810.05934), with the rule of Ray's
ASHAScheduler: the cutoff of a rung is the (1 - 1/reduction_factor) percentile of the values recorded there before,
the first trial at a rung survives, and so do ties. Ray's own one counts a resumed trial twice and forgets its rungs.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.state import COMPLETE, CONTINUE, FAIL, METRIC, STOP, Study


def rungs(config: SchedulerConfig, max_epochs: int) -> list[int]:
    """Return the epochs at which trials are compared, ascending, all below ``max_epochs``."""
    if config.name == "none":
        return []
    found: list[int] = []
    milestone = float(config.grace_period)
    while math.ceil(milestone) < max_epochs:
        if math.ceil(milestone) not in found:
            found.append(math.ceil(milestone))
        milestone *= config.reduction_factor
    return found


def verdict(
    study: Study, config: SchedulerConfig, max_epochs: int, trial_id: str, epoch: int, metrics: Mapping[str, Any]
) -> str:
    """Decide on a report that has not been recorded yet.

    Args:
        study: everything recorded so far.
        config: the scheduler's settings.
        max_epochs: where the trial is complete.
        trial_id: our own id of the trial.
        epoch: the epoch reported.
        metrics: what it reported.

    Returns:
        ``fail`` for a value that is not a finite number, ``complete`` at the last epoch, ``stop`` below a rung's
        cutoff, else ``continue``.
    """
    value = metrics.get(METRIC)
    if value is None or not math.isfinite(value):
        return FAIL
    if epoch >= max_epochs:
        return COMPLETE
    if epoch not in rungs(config, max_epochs):
        return CONTINUE
    limit = cutoff(study, config, trial_id, epoch)
    return STOP if limit is not None and value < limit else CONTINUE


def cutoff(study: Study, config: SchedulerConfig, trial_id: str, rung: int) -> float | None:
    """Return the value below which a trial is stopped at a rung; None = no one has been there before."""
    recorded = [
        trial.epochs[rung - 1].value
        for trial in study.trials.values()
        if trial.trial_id != trial_id and len(trial.epochs) >= rung and math.isfinite(trial.epochs[rung - 1].value)
    ]
    if not recorded:
        return None
    return float(np.percentile(recorded, (1 - 1 / config.reduction_factor) * 100))
