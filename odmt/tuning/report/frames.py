"""The report's two tables: one row a trial, one row an epoch."""

import math
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from odmt.tuning.report.facts import Facts, max_epochs
from odmt.tuning.report.pareto import front
from odmt.tuning.state import Trial


def trials_frame(facts: Facts) -> pd.DataFrame:
    """Return one row a trial: what was tried, what came of it, what it cost.

    Columns ``best/<metric>`` hold every metric of the trial's best epoch, ``value/<path>`` what was proposed; an axis
    that did not exist for the trial is empty. Times are UTC, durations seconds.
    """
    rows = [_trial_row(facts, trial) for trial in facts.trials]
    frame = pd.DataFrame(rows, columns=None if rows else ["trial", "number", "outcome"])
    if len(facts.objectives) > 1:
        frame["on_pareto_front"] = frame["trial"].isin([trial.trial_id for trial in front(facts)])
    return frame


def epochs_frame(facts: Facts) -> pd.DataFrame:
    """Return one row a recorded epoch, with the scheduler's verdict and every metric."""
    rows = [
        {
            "trial": trial.trial_id,
            "number": trial.number,
            "outcome": facts.outcome(trial),
            "epoch": epoch.epoch,
            "verdict": epoch.verdict,
            "seconds": epoch.seconds,
            "time": moment(epoch.time),
            **epoch.metrics,
        }
        for trial in facts.trials
        for epoch in trial.epochs
    ]
    return pd.DataFrame(rows, columns=None if rows else ["trial", "number", "outcome", "epoch", "verdict"])


def _trial_row(facts: Facts, trial: Trial) -> dict[str, Any]:
    best = trial.best
    row = {
        "trial": trial.trial_id,
        "number": trial.number,
        "outcome": facts.outcome(trial),
        "source": trial.source,
        "sentinel": trial.sentinel,
        "bracket": trial.bracket,
        "attempts": trial.attempt,
        "setbacks": trial.setbacks,
        "epochs": len(trial.epochs),
        "max_epochs": max_epochs(trial),
        "best_epoch": best.epoch if best is not None else None,
        "last_value": facts.objectives[0].of(trial.epochs[-1]) if trial.epochs else math.nan,
        "epoch_seconds": sum(epoch.seconds for epoch in trial.epochs),
        "busy_seconds": trial.busy_seconds,
        "started": moment(trial.started),
        "ended": moment(trial.ended),
        "reason": trial.reason,
        "adjusted": " ".join(f"{path}={value}" for path, value in trial.adjust.items()) or None,
    }
    row |= {f"best/{name}": value for name, value in (best.metrics if best is not None else {}).items()}
    return row | {f"value/{path}": trial.values.get(path) for path in facts.axes}


def moment(seconds: float) -> str | None:
    """Return a time as ISO 8601 in UTC; None for a time that has not come."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
