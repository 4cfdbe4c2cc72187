"""The last word of a search: what became of its trials, the plan against what happened, the best trial."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from odmt.commands import duration, size
from odmt.evaluation.metrics import reported_heads
from odmt.experiment.arrays import load_split, validation_floors
from odmt.home import Home
from odmt.tuning.studies import sizes
from odmt.tuning.study import StudyView, TrialView
from odmt.tuning.wording import counted

_ENDED = ("completed", "stopped", "failed")
_SHOWN_FAILURES = 5
_SETBACKS = {"oom": "out of memory", "died": "worker died", "hung": "worker hung", "disk": "no room on the disk"}
_MORE = {"time": "--time-budget", "gpu-hours": "--max-gpu-hours"}


def outcome(study: StudyView, before: StudyView | None) -> Iterator[str]:
    """Yield what became of the trials.

    Args:
        study: at the end.
        before: before this start; None = it was the first.
    """
    counts = ", ".join(f"{study.count(state)} {state}" for state in _ENDED)
    exhausted = "; the space is exhausted: all that was left to propose has been tried" if study.exhausted else ""
    yield f"study {study.name}: {len(study.trials)} trials: {counts}{exhausted}"
    if (
        before is not None
        and before.study_id == study.study_id
        and not (before.finished and study.seconds_used == before.seconds_used)
    ):
        yield went_on(before, study)
    if study.limit is not None:
        yield limit_sentence(study)
    if study.reused:
        yield f"{study.reused} proposals equalled an earlier trial: its result was used, nothing was run again"
    if study.setbacks:
        found = sorted(study.setback_kinds.items())
        kinds = ", ".join(f"{_SETBACKS.get(kind, kind)} {count}" for kind, count in found)
        yield f"{counted(study.setbacks, 'attempt')} ended badly: {kinds}"
    failed = [trial for trial in study.trials if trial.state == "failed"]
    yield from (f"failed: {trial.trial_id}: {trial.reason}" for trial in failed[:_SHOWN_FAILURES])
    if len(failed) > _SHOWN_FAILURES:
        yield f"failed: and {len(failed) - _SHOWN_FAILURES} more"


def went_on(before: StudyView, after: StudyView) -> str:
    """Say what became of the trials that had ended before this start: kept as they were, or run again."""
    ended = {trial.trial_id: trial for trial in before.trials if trial.state in _ENDED}
    now = {trial.trial_id: trial for trial in after.trials}
    lost = [
        key for key, trial in ended.items() if key not in now or now[key].epochs[: len(trial.epochs)] != trial.epochs
    ]
    repeated = [key for key, trial in ended.items() if key in now and now[key].attempts != trial.attempts]
    resumed = [trial for trial in before.trials if trial.trial_id not in ended]
    return (
        f"went on after {len(ended)} ended trials: lost {len(lost)}, repeated {len(repeated)}, resumed {len(resumed)}, "
        f"epochs redone {after.epochs_redone - before.epochs_redone}"
    )


def limit_sentence(study: StudyView) -> str:
    """Say which budget ended the search, what is left undone, and how to go on."""
    if study.limit == "time":
        spent, allowed, key = study.seconds_used / 3600, study.hours_allowed, "budget.time_hours"
    else:
        spent, allowed, key = study.device_hours, study.gpu_hours_allowed, "budget.max_gpu_hours"
    what = "h" if study.limit == "time" else f"{study.device} hours"
    left = len([trial for trial in study.trials if trial.state not in _ENDED])
    kept = f"; {left} trials are kept at their checkpoints" if left else ""
    of = "" if allowed is None else f" of {allowed:g}"
    more = _MORE[study.limit or "time"]
    return (
        f"{key} ended the search: {spent:.2f}{of} {what}, {len(study.trials)} of {study.budget} trials begun{kept}; "
        f"to go on: the same command with --extend and a larger {more}"
    )


def plan_table(study: StudyView, plan: Mapping[str, Any] | None, folder: Path) -> Table:
    """Return what was planned, at the last start that raised a budget or else the first, beside what happened.

    Args:
        study: at the end.
        plan: what ``read_plan`` gave; None = there is none.
        folder: the study's, whose checkpoints are measured.
    """
    epochs = sum(len(trial.epochs) for trial in study.trials)
    held = sum(sizes(folder).trials.values())
    rows: list[tuple[str, str, str]] = [
        ("trials", _number(plan, "trials"), str(len(study.trials))),
        ("run to the end", _number(plan, "completed"), str(study.count("completed"))),
        ("epochs", _number(plan, "epochs"), str(epochs)),
        ("time", _time(plan, "hours"), duration(study.seconds_used)),
        (f"{study.device} hours", _number(plan, "device_hours"), f"{study.device_hours:.3g}"),
        ("checkpoints", _size(plan, "checkpoint_bytes"), size(held)),
    ]
    table = Table("", "planned", "actual", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def best_lines(best: TrialView) -> Iterator[str]:
    """Yield which trial is the best, and its values."""
    incumbent = " (the incumbent)" if best.number == 0 else ""
    yield f"best trial {best.trial_id}{incumbent}, epoch {best.best_epoch}, checkpoint {best.best_checkpoint}"
    for path, value in best.values.items():
        yield f"  {path}: {value:.6g}" if isinstance(value, float) else f"  {path}: {value}"


def best_table(home: Home, best: TrialView) -> Table:
    """Return a trial's heads beside both floors."""
    metrics = dict(best.epochs)[best.best_epoch or 0]
    names = ("hr_at_10", "ndcg_at_10")
    table = Table("validation", *names)
    for head, prefix in reported_heads(metrics, "valid/").items():
        table.add_row(f"{head} head", *(f"{metrics[prefix + name]:.4f}" for name in names))
    data = best.config.data
    floors = validation_floors(load_split(home, data), rank_repeat_targets=data.rank_repeat_targets)
    for name, values in floors.items():
        table.add_row(f"floor: {name}", *(f"{values[metric]:.4f}" for metric in names))
    return table


def _number(plan: Mapping[str, Any] | None, name: str) -> str:
    value = (plan or {}).get(name)
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}"


def _time(plan: Mapping[str, Any] | None, name: str) -> str:
    value = (plan or {}).get(name)
    return "-" if value is None else duration(value * 3600)


def _size(plan: Mapping[str, Any] | None, name: str) -> str:
    value = (plan or {}).get(name)
    return "-" if value is None else f"up to {size(value)}"
