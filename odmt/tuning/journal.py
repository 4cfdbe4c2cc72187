"""The driver's decisions, each committed to the event log before anyone acts on it. No Ray here."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from odmt.config import to_mapping
from odmt.tuning.event_log import EventLog
from odmt.tuning.samplers import propose
from odmt.tuning.scheduler import verdict
from odmt.tuning.space import Space
from odmt.tuning.state import COMPLETE, CONTINUE, FAIL, STOP


@dataclass(frozen=True)
class Assignment:
    """What a worker is given to do."""

    trial_id: str
    number: int
    attempt: int
    config: Mapping[str, Any]


class Journal:
    """Proposes trials, judges reports, records ends; everything it knows is in the log.

    Attributes:
        stopping: set by a signal or by a tainted study; no trial goes on after its next report.
    """

    def __init__(self, space: Space, log: EventLog) -> None:
        """Stand on a log whose header has been written."""
        self.space = space
        self.log = log
        self.stopping = threading.Event()
        self._waiting = [trial.trial_id for trial in log.study.interrupted]

    def next_assignment(self) -> Assignment | None:
        """Return the next thing to do: an interrupted trial at its old values, else a new one; None = nothing."""
        study = self.log.study
        if self._waiting:
            trial = study.trials[self._waiting.pop(0)]
        else:
            if not study.wants_proposal:
                return None
            proposal = propose(self.space, study)
            if proposal is None:
                self.log.commit("exhausted")
                return None
            number = len(study.trials)
            trial_id = f"t{number:04d}"
            self.log.commit(
                "proposed",
                trial=trial_id,
                number=number,
                values=proposal.values,
                config=to_mapping(self.space.config_for(proposal.values)),
                distributions=proposal.distributions,
                system_attrs=proposal.system_attrs,
                draws=proposal.draws,
            )
            trial = study.trials[trial_id]
        return Assignment(trial.trial_id, trial.number, self.again(trial.trial_id), trial.config)

    def again(self, trial_id: str) -> int:
        """Record another attempt at a trial; return its number. A trial whose outcome is settled has no more."""
        trial = self.log.study.trials[trial_id]
        if not trial.is_ended:
            self.log.commit("started", trial=trial_id, attempt=trial.attempt + 1)
        return trial.attempt

    def report(self, trial_id: str, result: Mapping[str, Any]) -> str:
        """Judge and record what a worker reported; a report that is already recorded changes nothing.

        Returns:
            The verdict: ``continue``, or what ended the trial.
        """
        trial = self.log.study.trials[trial_id]
        if trial.is_ended:
            return STOP
        if result.get("tainted"):
            self.taint(result["tainted"])
            return STOP
        if result.get("failed"):
            self.log.commit(
                "ended",
                trial=trial.trial_id,
                state="failed",
                reason=result["failed"],
                traceback=result.get("traceback"),
            )
            return FAIL
        epoch, metrics = int(result["epoch"]), result["metrics"]
        if epoch <= len(trial.epochs):
            if result.get("is_last"):  # a resumed run that ended by itself no later than what is recorded
                self.log.commit("ended", trial=trial.trial_id, state="completed", reason=None)
                return COMPLETE
            return CONTINUE
        # A trial that ends early by itself (train.early_stopping_patience) is complete where it ends.
        max_epochs = epoch if result.get("is_last") else trial.config["train"]["max_epochs"]
        decided = verdict(self.log.study, self.space.scheduler, max_epochs, trial.trial_id, epoch, metrics)
        self.log.commit(
            "epoch",
            trial=trial.trial_id,
            epoch=epoch,
            metrics=metrics,
            verdict=decided,
            checkpoint=result["checkpoint"],
            seconds=result["seconds"],
            reason=f"epoch {epoch}: the validation metric is not a finite number" if decided == FAIL else None,
        )
        return decided

    def taint(self, reason: str) -> None:
        """Record that shared features were written to; the study cannot go on."""
        if self.log.study.tainted is None:
            self.log.commit("tainted", reason=reason)
        self.stopping.set()

    def lost(self, trial_id: str, reason: str) -> None:
        """Record that a trial's worker died; nothing happens to a trial whose outcome is settled."""
        if not self.log.study.trials[trial_id].is_ended:
            self.log.commit("ended", trial=trial_id, state="failed", reason=reason)
