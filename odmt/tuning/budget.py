"""The budgets of a study: trials, time, GPU hours. The first one that is met ends the search."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from odmt.tuning.event_log import EventLog
from odmt.tuning.sections import BudgetConfig
from odmt.tuning.state import Study

_KEYS = {"trials": "budget.trials", "seconds": "budget.time_hours", "gpu_hours": "budget.max_gpu_hours"}


class Met(NamedTuple):
    """A budget that has been used up; ``used`` and ``allowed`` in hours."""

    what: str
    used: float
    allowed: float


def limits(config: BudgetConfig) -> dict[str, Any]:
    """Return a budget as the event log holds it."""
    seconds = None if config.time_hours is None else config.time_hours * 3600
    return {"trials": config.trials, "seconds": seconds, "gpu_hours": config.max_gpu_hours}


def seconds_used(study: Study, now: float) -> float:
    """Return how long drivers have searched; ``now`` is the time while one does."""
    return study.seconds_used + max(0.0, now - (study.last_time or now))


def device_hours(study: Study, now: float) -> float:
    """Return GPU hours (CPU hours where trials reserve no GPU) of all trials, the running ones up to ``now``."""
    running = sum(max(0.0, now - trial.busy_since) for trial in study.trials.values() if trial.busy_since is not None)
    return (study.device_seconds + running * study.devices) / 3600


def met(study: Study, now: float) -> Met | None:
    """Return the budget of time or GPU hours that has been used up; None = there is some left."""
    if study.seconds_allowed is not None and (used := seconds_used(study, now)) >= study.seconds_allowed:
        return Met("time", used / 3600, study.seconds_allowed / 3600)
    if study.gpu_hours_allowed is not None and (used := device_hours(study, now)) >= study.gpu_hours_allowed:
        return Met("gpu-hours", used, study.gpu_hours_allowed)
    return None


def record_met(log: EventLog, now: float, *, at: float | None = None) -> bool:
    """Record the budget of time or GPU hours that has been used up; say whether there is one.

    Args:
        log: of the study.
        now: until when time is counted.
        at: when the budget was met, as the log is to have it; None = now.
    """
    if log.study.finished or (found := met(log.study, now)) is None:
        return False
    when = {} if at is None else {"time": at}
    log.commit("limit", what=found.what, used=found.used, allowed=found.allowed, **when)
    return True


def changed(study: Study, config: BudgetConfig, extend: bool, problems: list[str]) -> dict[str, Any]:
    """Return what the log is to record where a budget is raised; what may not be is added to ``problems``.

    The budget that the study was begun with may always be given again: it is in the command that is typed to go on.
    """
    asked = limits(config)
    was = {"trials": study.budget, "seconds": study.seconds_allowed, "gpu_hours": study.gpu_hours_allowed}
    raised: dict[str, Any] = {}
    for name, key in _KEYS.items():
        if asked[name] in (was[name], study.header.get(name)):
            continue
        if not _more(asked[name], was[name]):
            problems.append(f"{key}: was {_shown(name, was)}, is {_shown(name, asked)}; it can only grow")
        elif not extend:
            problems.append(f"{key}: was {_shown(name, was)}, is {_shown(name, asked)}; add --extend to allow that")
        else:
            raised[name] = asked[name]
    return raised


def spent(study: Study, now: float) -> Iterator[str]:
    """Yield how much of each limited budget is used and left, in words."""
    if study.seconds_allowed is not None:
        yield f"{seconds_used(study, now) / 3600:.2f} of {study.seconds_allowed / 3600:g} h"
    what = "GPU" if study.uses_gpu else "CPU"
    allowed = study.gpu_hours_allowed
    of = "" if allowed is None else f" of {allowed:g}"
    yield f"{device_hours(study, now):.2f}{of} {what} hours"


def _more(asked: float | None, was: float | None) -> bool:
    return was is not None and (asked is None or asked > was)


def _shown(name: str, budget: Mapping[str, Any]) -> Any:
    value = budget[name]
    return "no limit" if value is None else value / 3600 if name == "seconds" else value
