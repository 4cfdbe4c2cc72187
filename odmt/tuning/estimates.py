"""How long a search still takes."""

from odmt.tuning.budget import device_hours, seconds_used
from odmt.tuning.state import Study


def seconds_left(study: Study, max_epochs: int, pace: float | None, now: float) -> float | None:
    """Estimate the time until the search ends: its trials are through, or a budget is met.

    Args:
        study: as it stands.
        max_epochs: of a trial that completes.
        pace: seconds of the search an epoch of any trial has taken since this start; None = not known yet.
        now: seconds since 1970.

    Returns:
        Seconds; None = nothing is known yet.
    """
    if study.finished:
        return 0.0
    limits = [] if pace is None else [_epochs_left(study, max_epochs) * pace]
    if study.seconds_allowed is not None:
        limits.append(study.seconds_allowed - seconds_used(study, now))
    busy = sum(trial.busy_since is not None for trial in list(study.trials.values()))
    if study.gpu_hours_allowed is not None and busy and study.devices:
        limits.append((study.gpu_hours_allowed - device_hours(study, now)) * 3600 / (busy * study.devices))
    return max(0.0, min(limits)) if limits else None


def _epochs_left(study: Study, max_epochs: int) -> float:
    """Return the epochs still to run, if the trials to come run as long as those that have ended."""
    trials = list(study.trials.values())
    ended = [len(trial.epochs) for trial in trials if trial.is_ended and trial.epochs]
    per_trial = sum(ended) / len(ended) if ended else float(max_epochs)
    unproposed = 0 if study.exhausted else study.budget - len(trials)
    going = sum(max(1.0, per_trial - len(trial.epochs)) for trial in trials if not trial.is_ended)
    return unproposed * per_trial + going
