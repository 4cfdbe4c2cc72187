"""The budget: what was planned, what was spent, and what early stopping saved."""

from typing import NamedTuple

from odmt.tuning.report.facts import FAILED, RANKED, Facts, max_epochs


class Spending(NamedTuple):
    """Plan and budget against actual. Hours are of the clock on the wall unless their name says otherwise.

    What was planned is what was expected before any budget ends the search; None = not planned.
    """

    trials_planned: int
    trials_first_planned: int
    """What the study was begun with; ``--extend`` raises it."""
    trials_proposed: int
    trials_ended: int
    trials_reused: int
    wall_hours_planned: float | None
    wall_hours_allowed: float | None
    wall_hours: float
    device: str
    """``GPU`` or ``CPU``: what ``device_hours`` counts."""
    device_hours_planned: float | None
    device_hours_allowed: float | None
    device_hours: float
    epochs_planned: float | None
    epochs_run: int
    """Distinct epochs, of all trials."""
    epochs_redone: int
    """Run a second time after an interruption."""
    epochs_of_failed: int
    epochs_to_the_end: int
    """What the completed and stopped trials would have run without early stopping."""
    epochs_saved: int
    saved_share: float | None
    hours_saved: float
    """Trial hours, at each stopped trial's own seconds an epoch."""
    driver_starts: int
    setbacks: int
    limit: str | None


def spending(facts: Facts) -> Spending:
    """Return plan against actual."""
    study, plan = facts.study, facts.plan or {}
    settled = [trial for trial in facts.trials if trial.state in RANKED]
    to_the_end = sum(max_epochs(trial) for trial in settled)
    saved = sum(max_epochs(trial) - len(trial.epochs) for trial in settled)
    seconds_saved = sum(
        (max_epochs(trial) - len(trial.epochs)) * sum(epoch.seconds for epoch in trial.epochs) / len(trial.epochs)
        for trial in settled
        if trial.epochs
    )
    return Spending(
        trials_planned=study.budget,
        trials_first_planned=facts.header["trials"],
        trials_proposed=len(facts.trials),
        trials_ended=study.num_ended,
        trials_reused=len(study.reused),
        wall_hours_planned=plan.get("hours"),
        wall_hours_allowed=_hours(study.seconds_allowed),
        wall_hours=study.seconds_used / 3600,
        device="GPU" if study.uses_gpu else "CPU",
        device_hours_planned=plan.get("device_hours"),
        device_hours_allowed=study.gpu_hours_allowed,
        device_hours=study.device_seconds / 3600,
        epochs_planned=plan.get("epochs"),
        epochs_run=sum(len(trial.epochs) for trial in facts.trials),
        epochs_redone=study.epochs_redone,
        epochs_of_failed=sum(len(trial.epochs) for trial in facts.trials if trial.state == FAILED),
        epochs_to_the_end=to_the_end,
        epochs_saved=saved,
        saved_share=saved / to_the_end if to_the_end else None,
        hours_saved=seconds_saved / 3600,
        driver_starts=max(study.opened, len(facts.opened)),
        setbacks=len(study.setbacks),
        limit=study.limit,
    )


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600
