"""What ``study.py list`` and ``status`` tell about a study, as plain values."""

from collections import Counter
from typing import Any

from odmt.config import from_mapping
from odmt.tuning import budget
from odmt.tuning.scheduler import rungs
from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.state import STOP, Study
from odmt.tuning.studies import Standing
from odmt.tuning.wording import leading

OUTCOMES = ("completed", "stopped", "failed")


def row(standing: Standing) -> dict[str, Any]:
    """Return one line of the list of studies."""
    study, best = standing.study, best_of(standing.study)
    return {
        "study": standing.name,
        "dataset": study.header.get("dataset"),
        "state": standing.state,
        "pid": standing.pid,
        "why": standing.damage or study.tainted,
        "ended": study.num_ended,
        "budget": study.budget,
        "best": best["value"] if best else None,
        "best_trial": best["trial"] if best else None,
        "best_has_ended": best["has_ended"] if best else None,
        "last_activity": standing.last_activity,
        "log_bytes": standing.sizes.log,
        "checkpoint_bytes": standing.sizes.checkpoints,
        "other_bytes": standing.sizes.other,
    }


def status(standing: Standing) -> dict[str, Any]:
    """Return everything about one study whose log can be read."""
    study = standing.study
    states = Counter(trial.state for trial in study.trials.values())
    return row(standing) | {
        "space": study.header["space"],
        "space_file": study.header["space_file"],
        "proposed": len(study.trials),
        "counts": {name: states[name] for name in OUTCOMES} | {"without an outcome": len(study.interrupted)},
        "reused": len(study.reused),
        "exhausted": study.exhausted,
        "limit": study.limit,
        "best": best_of(study),
        "rungs": _rungs(study),
        "budgets": _budgets(standing),
        "starts": study.opened,
        "resumed": study.resumed,
        "epochs_redone": study.epochs_redone,
        "setbacks": dict(Counter(record["what"] for record in study.setbacks)),
        "aside": dict(study.aside),
        "running": [
            {
                "trial": trial.trial_id,
                "attempt": trial.attempt,
                "epochs": len(trial.epochs),
                "max_epochs": trial.config["train"]["max_epochs"],
                "last": trial.epochs[-1].value if trial.epochs else None,
            }
            for trial in study.interrupted
        ],
        "owner": None
        if standing.pid is None
        else {"pid": standing.pid, "host": standing.host, "since": standing.since},
        "trial_bytes": dict(standing.sizes.trials),
        "command": standing.opened.get("command"),
    }


def best_of(study: Study) -> dict[str, Any] | None:
    """Return the best trial's id, epoch, value and values, one without an outcome too; None = no trial has a value."""
    trial = leading(study)
    if trial is None or trial.best is None:
        return None
    return {
        "trial": trial.trial_id,
        "has_ended": trial.is_ended,
        "epoch": trial.best.epoch,
        "value": trial.best.value,
        "values": dict(trial.values),
    }


def _rungs(study: Study) -> list[dict[str, Any]]:
    """Return for each rung of each bracket how many trials have reported there, and how many it stopped."""
    identity = study.header["identity"]
    config = from_mapping(SchedulerConfig, identity["scheduler"], "scheduler")
    max_epochs = identity["config"]["train"]["max_epochs"]
    found = []
    for bracket in range(config.brackets):
        trials = [trial for trial in study.trials.values() if trial.bracket == bracket]
        for epoch in rungs(config, max_epochs, bracket):
            there = [trial.epochs[epoch - 1] for trial in trials if len(trial.epochs) >= epoch]
            stopped = sum(report.verdict == STOP for report in there)
            found.append({"bracket": bracket, "epoch": epoch, "reached": len(there), "stopped": stopped})
    return found


def _budgets(standing: Standing) -> dict[str, dict[str, float | None]]:
    """Return used, allowed and left of trials, hours and device hours; allowed None = no limit."""
    study, now = standing.study, standing.now
    allowed = {
        "trials": float(study.budget),
        "hours": None if study.seconds_allowed is None else study.seconds_allowed / 3600,
        "GPU hours" if study.uses_gpu else "CPU hours": study.gpu_hours_allowed,
    }
    used = [len(study.trials), budget.seconds_used(study, now) / 3600, budget.device_hours(study, now)]
    return {
        name: {"used": spent, "allowed": limit, "left": None if limit is None else max(0.0, limit - spent)}
        for (name, limit), spent in zip(allowed.items(), used, strict=True)
    }
