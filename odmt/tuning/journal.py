"""The driver's decisions, each committed to the event log before anyone acts on it. No Ray here."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from odmt.errors import ServiceError
from odmt.tuning.event_log import EventLog
from odmt.tuning.faults import QUICK_SECONDS, another_attempt, host_to_put_aside
from odmt.tuning.proposer import Proposer
from odmt.tuning.samplers import Proposal
from odmt.tuning.scheduler import bracket_of, is_sentinel, verdict
from odmt.tuning.space import Space
from odmt.tuning.state import COMPLETE, CONTINUE, FAIL, STOP, Trial
from odmt.tuning.trials import why_not_finite
from odmt.tuning.waiting import Waiting, adjusted, interrupted_before

LATER: Literal["later"] = "later"
"""Instead of an assignment: nothing now, ask again."""


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
        stopping: set by a signal, a budget that is met, or a tainted study; no trial goes on after its next report.
    """

    def __init__(self, space: Space, log: EventLog, clock: Callable[[], float] = time.monotonic) -> None:
        """Stand on a log whose header has been written."""
        self.space = space
        self.log = log
        self.stopping = threading.Event()
        self._clock = clock
        self._waiting = [interrupted_before(log.study, trial) for trial in log.study.interrupted]
        self._proposer = Proposer(space)
        self._untold: set[str] = set()

    def next_assignment(self) -> Assignment | None:
        """Return the next thing to do, waiting for it as long as it takes; None = nothing is left to hand out now."""
        while (found := self.try_assignment()) == LATER:
            if not self._waiting and not self.log.study.wants_proposal:
                return None
            time.sleep(0.001)
        return found

    def try_assignment(self) -> Assignment | Literal["later"] | None:
        """Return the next thing to do: an interrupted trial at its old values, else a new one.

        Returns:
            ``LATER`` where a proposal is being made, an attempt waits for its time, or a running trial may need
            another attempt; None = the search is over.
        """
        study = self.log.study
        now = self._clock()
        for waiting in self._waiting:
            if waiting.not_before <= now:
                self._waiting.remove(waiting)
                if waiting.failed is not None:
                    self.log.commit("ended", trial=waiting.trial_id, state="failed", reason=waiting.failed)
                    return LATER
                return self._start(study.trials[waiting.trial_id], waiting.adjust)
        if not study.wants_proposal:
            return None if study.finished else LATER
        if not self._proposer.is_ready:
            self._proposer.ask(study)
            return LATER
        made = self._proposer.take()
        if made.proposal is None:
            self.log.commit("exhausted")
            return self.try_assignment()
        if made.proposal.equals is not None:
            self._reuse(made.proposal, made.asof)
            return LATER
        return self._start(self._propose(made.proposal, made.config, made.asof))

    def _propose(self, proposal: Proposal, config: Mapping[str, Any], asof: int) -> Trial:
        study, scheduler = self.log.study, self.space.scheduler
        number = len(study.trials)
        self.log.commit(
            "proposed",
            trial=f"t{number:04d}",
            number=number,
            values=proposal.values,
            config=config,
            distributions=proposal.distributions,
            system_attrs=proposal.system_attrs,
            study_attrs=proposal.study_attrs,
            draws=proposal.draws,
            source=proposal.source,
            sentinel=is_sentinel(scheduler, study.header["trials"], number),
            bracket=bracket_of(scheduler, config["train"]["max_epochs"], self.space.sampler.seed, number),
            asof=asof,
        )
        return study.trials[f"t{number:04d}"]

    def _reuse(self, proposal: Proposal, asof: int) -> None:
        self.log.commit(
            "reused",
            of=proposal.equals,
            values=proposal.values,
            distributions=proposal.distributions,
            system_attrs=proposal.system_attrs,
            study_attrs=proposal.study_attrs,
            draws=proposal.draws,
            asof=asof,
        )

    def _start(self, trial: Trial, adjust: Mapping[str, Any] | None = None) -> Assignment:
        more = {"adjust": dict(adjust)} if adjust else {}
        self.log.commit("started", trial=trial.trial_id, attempt=trial.attempt + 1, **more)
        if trial.attempt > 1:
            self._untold.add(trial.trial_id)
        return Assignment(trial.trial_id, trial.number, trial.attempt, adjusted(trial.config, trial.adjust))

    def report(self, trial_id: str, result: Mapping[str, Any]) -> str:
        """Judge and record what a worker reported; a report that is already recorded changes nothing.

        Returns:
            The verdict: ``continue``, or what ended the trial or this attempt at it.
        """
        trial = self.log.study.trials[trial_id]
        if trial.is_ended or result.get("attempt", trial.attempt) != trial.attempt:
            return STOP
        if result.get("tainted"):
            self.taint(result["tainted"])
            return STOP
        if result.get("failed"):
            self.setback(trial_id, result.get("what", "error"), result["failed"], **_details(result))
            return FAIL
        self._tell_resumed(trial, result)
        epoch, metrics = int(result["epoch"]), result["metrics"]
        if epoch <= len(trial.epochs):
            if result.get("is_last"):  # a resumed run that ended by itself no later than what is recorded
                self.log.commit("ended", trial=trial.trial_id, state="completed", reason=None)
                return COMPLETE
            return CONTINUE
        decided = verdict(
            self.log.study,
            self.space.scheduler,
            trial.config["train"]["max_epochs"],
            trial.trial_id,
            epoch,
            metrics,
            is_last=bool(result.get("is_last")),
        )
        self.log.commit(
            "epoch",
            trial=trial.trial_id,
            epoch=epoch,
            metrics=metrics,
            verdict=decided,
            checkpoint=result["checkpoint"],
            seconds=result["seconds"],
            host=result.get("host"),
            reason=why_not_finite(self.log.study.objectives, epoch, metrics) if decided == FAIL else None,
        )
        return decided

    def _tell_resumed(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Record where an attempt really went on, at its first epoch that is not from a checkpoint."""
        if trial.trial_id not in self._untold or result.get("replayed"):
            return
        self._untold.discard(trial.trial_id)
        saved, recorded = int(result["epoch"]) - 1, len(trial.epochs)
        redone = max(0, recorded - saved) + trial.epochs_to_redo
        self.log.commit("resumed", trial=trial.trial_id, attempt=trial.attempt, from_epoch=saved, redone=redone)

    def began(self, trial_id: str, host: str | None) -> None:
        """Record that a worker has set to work: whatever ends it now, an epoch is lost."""
        trial = self.log.study.trials[trial_id]
        if not trial.is_ended:
            self.log.commit("began", trial=trial_id, attempt=trial.attempt, host=host)

    def left(self, trial_id: str, *, in_epoch: bool) -> None:
        """Record that an attempt ends because the search does; the trial waits at its checkpoint.

        Where even that cannot be written, the log keeps why; the next start then counts an epoch that may not be lost.

        Args:
            trial_id: our own id of the trial; nothing happens where its outcome is settled.
            in_epoch: its epoch is lost; otherwise it had just reported one, or had not begun.
        """
        trial = self.log.study.trials[trial_id]
        if not trial.is_ended and trial.busy_since is not None and self.log.failure is None:
            with contextlib.suppress(ServiceError):
                self.log.commit("left", trial=trial_id, attempt=trial.attempt, in_epoch=in_epoch)

    def setback(self, trial_id: str, what: str, reason: str, **details: Any) -> bool:
        """Record an attempt that ended badly: another one follows, or the trial has failed.

        Args:
            trial_id: our own id of the trial; nothing happens where its outcome is settled.
            what: ``oom``, ``died`` (the worker), ``hung``, or ``error`` (of the trial itself).
            reason: in one sentence.
            details: ``host``, ``traceback``, ``log_tail``.

        Returns:
            Whether another attempt follows.
        """
        trial = self.log.study.trials[trial_id]
        if trial.is_ended:
            return False
        again = another_attempt(self.log.study, trial, what, self.space.resources)
        host = details.pop("host", None)
        if what != "error":
            self.log.commit(
                "setback",
                trial=trial_id,
                attempt=trial.attempt,
                what=what,
                reason=reason,
                host=host,
                quick=self._ran_seconds(trial) < QUICK_SECONDS and len(trial.epochs) == trial.epochs_at_start,
                retry=again is not None,
                wait_seconds=again.wait_seconds if again else None,
            )
        if again is None:
            self.log.commit("ended", trial=trial_id, state="failed", reason=reason, **details)
        else:
            self._waiting.append(Waiting(trial_id, self._clock() + again.wait_seconds, again.adjust))
        if host is not None and (why := host_to_put_aside(self.log.study, host)):
            self.log.commit("aside", host=host, reason=why)
        return again is not None

    def _ran_seconds(self, trial: Trial) -> float:
        return time.time() - (trial.busy_since or time.time())

    def taint(self, reason: str) -> None:
        """Record that shared features were written to; the study cannot go on."""
        if self.log.study.tainted is None:
            self.log.commit("tainted", reason=reason)
        self.stopping.set()

    def close(self) -> None:
        """Propose no more."""
        self._proposer.close()


def _details(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("host", "traceback", "log_tail") if result.get(name) is not None}
