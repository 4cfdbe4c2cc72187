"""Trials, counts and durations in the words that a search shows."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from odmt.tuning.state import Study, Trial


def state_of(trial: Trial) -> str:
    """Return a trial's state in a word; ``waiting``: for a worker, after an interruption or a bad attempt."""
    return trial.state if trial.is_ended else "running" if trial.busy_since is not None else "waiting"


def counts(study: Study) -> str:
    """Return how many trials are in each state, in words."""
    found = Counter(state_of(trial) for trial in list(study.trials.values()))
    names = ("completed", "stopped", "failed", "running", "waiting")
    always = ("completed", "stopped", "failed")
    return ", ".join(f"{found[name]} {name}" for name in names if name in always or found[name])


def leading(study: Study) -> Trial | None:
    """Return the trial with the highest value so far, those without an outcome too; the first of equals."""
    able = [(trial, trial.best) for trial in list(study.trials.values()) if trial.state != "failed"]
    scored = [(best.value, -trial.number, trial) for trial, best in able if best is not None]
    return max(scored, key=lambda item: item[:2])[2] if scored else None


def with_state(trial: Trial) -> str:
    """Return a trial's id, marked where it has no outcome yet: ``t0007 (running)``."""
    return trial.trial_id if trial.is_ended else f"{trial.trial_id} ({state_of(trial)})"


def shown_values(values: Mapping[str, Any]) -> str:
    """Return a trial's values in one short line, paths without their section where that is clear."""
    names = Counter(path.rpartition(".")[2] for path in values)
    short = {path: path.rpartition(".")[2] for path in values}
    return " ".join(
        f"{short[path] if names[short[path]] == 1 else path}={_short(value)}" for path, value in values.items()
    )


def counted(number: float, noun: str) -> str:
    """Return a number with its noun: 1 CPU, 2 CPUs, 0.5 GPUs."""
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def clock(seconds: float) -> str:
    """Return a duration as people say it."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def trial_line(trial: Trial) -> str:
    """Return how a trial stands, in one line."""
    value = f", {trial.epochs[-1].value:.4f}" if trial.epochs else ""
    reason = f": {trial.reason}" if trial.reason else ""
    return f"{trial.trial_id} {trial.state} at epoch {len(trial.epochs)}{value}{reason}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
