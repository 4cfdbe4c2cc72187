"""Watches over the attempts that workers have: signs of life, hosts, budgets, why a search must end. No Ray here."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from odmt.cluster.workers import Workers
from odmt.errors import ServiceError
from odmt.tuning import budget
from odmt.tuning.faults import DISK
from odmt.tuning.journal import LATER, Assignment, Journal
from odmt.tuning.state import CONTINUE

GRACE_SECONDS = 60.0
"""How long running trials may take to their next report once a budget is met; after that their epoch is lost."""
CHECK_SECONDS = 1.0
_MEASURED = 10_000


@dataclass
class _Attempt:
    """An attempt that a worker has, under Tune's id.

    Attributes:
        heard: monotonic time of its last sign of life; None = its worker has not begun.
        host: where it runs; None = it has not told.
    """

    trial_id: str
    number: int
    heard: float | None = None
    host: str | None = None


class Watch:
    """What the driver knows of the attempts at work, beside the log.

    An attempt is forgotten once its end is recorded, so that nothing is recorded twice: the death of a worker that was
    killed because it hung, or its last words.

    Attributes:
        failure: why the search cannot go on here, though it can be gone on with; None = nothing wrong.
        signalled: set by a signal: no trial is waited for.
        workers: the processes of those that have begun.
        durations: seconds of the last calls by which Tune asked or told us anything.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        slots: Callable[[Mapping[str, str]], int] | None = None,
        signalled: threading.Event | None = None,
        workers: Workers | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Watch a journal's attempts.

        Args:
            journal: decides and records.
            slots: given the hosts that were put aside, tells how many trials fit on the others; None = no limit.
            signalled: set by a signal.
            workers: where their processes are remembered.
            clock: monotonic seconds.
            now: seconds as the log has them.
        """
        self.journal = journal
        self.failure: ServiceError | None = None
        self.signalled = signalled or threading.Event()
        self.workers = workers or Workers()
        self.durations: deque[float] = deque(maxlen=_MEASURED)
        self._slots, self._clock, self._now = slots, clock, now
        self._attempts: dict[str, _Attempt] = {}
        self._timeout = journal.space.resources.report_timeout_minutes * 60
        self._checked: float | None = None
        self._met_at: float | None = None
        self._room: tuple[int, int] | None = None

    @property
    def is_idle(self) -> bool:
        """Say whether no worker has anything to do."""
        return not self._attempts

    def hand_out(self, tune_id: str) -> Assignment | str | None:
        """Return the journal's next assignment, ``LATER`` also where no host has room for it; None = no more."""
        self.check()
        if self.journal.stopping.is_set():
            return None
        if not self._has_room():
            return None if self.journal.stopping.is_set() else LATER
        assignment = self.journal.try_assignment()
        if isinstance(assignment, Assignment):
            self._attempts[tune_id] = _Attempt(assignment.trial_id, assignment.attempt)
        return assignment

    def begun(self, tune_id: str) -> None:
        """Note that a worker has been given the attempt; its time to report starts."""
        if tune_id in self._attempts:
            self._attempts[tune_id].heard = self._clock()

    def report(self, tune_id: str, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Note a report and have it judged; say whether the trial goes on."""
        attempt = self._attempts.get(tune_id)
        if attempt is None:
            return False
        attempt.heard, attempt.host = self._clock(), result.get("host", attempt.host)
        if result.get("began"):
            pid, began = result["process"]
            self.workers.add(str(attempt.host), int(pid), float(began))
            self.journal.began(trial_id, attempt.host)
            going_on = True
        else:
            if result.get("failed") and result.get("what") == DISK:
                self._fail(result["failed"])  # first: the log may find no room on that disk either
            going_on = self.journal.report(trial_id, result) == CONTINUE
        self.check()
        if going_on and self.journal.stopping.is_set():
            self.journal.left(trial_id, in_epoch=False)  # nothing is lost: its next epoch has not begun
            going_on = False
        if not going_on:
            self._forget(tune_id)
        return going_on

    def died(self, tune_id: str, reason: str, host: str | None = None) -> None:
        """Record that an attempt's worker is gone; ``host``: where, if it has not told."""
        if self.journal.stopping.is_set():
            self._forget(tune_id)
        elif (attempt := self._attempts.pop(tune_id, None)) is not None:
            self.journal.setback(attempt.trial_id, "died", reason, host=attempt.host or host)

    def left(self, tune_id: str) -> None:
        """Record that an attempt ended without a verdict, which no run of ours does."""
        if self.journal.stopping.is_set():
            self._forget(tune_id)
        elif (attempt := self._attempts.pop(tune_id, None)) is not None:
            self.journal.setback(attempt.trial_id, "error", "its run ended without a last report", host=attempt.host)

    def overdue(self) -> list[str]:
        """Record the attempts that have not reported for too long as hung; return Tune's ids: their workers must go."""
        if self.journal.stopping.is_set():
            return []
        now = self._clock()
        late = [
            tune_id
            for tune_id, attempt in self._attempts.items()
            if attempt.heard is not None and now - attempt.heard > self._timeout
        ]
        for tune_id in late:
            attempt = self._attempts.pop(tune_id)
            minutes = f"{self._timeout / 60:g} minutes (resources.report_timeout_minutes)"
            self.journal.setback(attempt.trial_id, "hung", f"no report for {minutes}", host=attempt.host)
        return late

    def check(self) -> None:
        """Record a budget that is met; looked at no more than once a second."""
        now = self._clock()
        if self.journal.stopping.is_set() or (self._checked is not None and now - self._checked < CHECK_SECONDS):
            return
        self._checked = now
        if budget.record_met(self.journal.log, self._now()):
            self._met_at = now
            self.journal.stopping.set()

    def is_over(self) -> bool:
        """Say whether Tune is to end all trials now; a budget that is met leaves them time for their next report."""
        self.check()
        if not self.journal.stopping.is_set():
            return False
        in_grace = self._met_at is not None and self._clock() - self._met_at < GRACE_SECONDS
        waited_for = in_grace and not self.signalled.is_set() and self.failure is None
        return not (waited_for and any(attempt.heard is not None for attempt in self._attempts.values()))

    def end(self) -> None:
        """Record that the attempts which are still at work end here; the epochs that they are in are lost."""
        for tune_id in list(self._attempts):
            self._forget(tune_id)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure a call by Tune."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.durations.append(time.perf_counter() - begun)

    def _forget(self, tune_id: str) -> None:
        """Let an attempt go; where its end has not been recorded, the search ends and its epoch is lost."""
        attempt = self._attempts.pop(tune_id, None)
        if attempt is not None:
            in_epoch = self.journal.log.study.trials[attempt.trial_id].in_epoch
            self.journal.left(attempt.trial_id, in_epoch=in_epoch)

    def _has_room(self) -> bool:
        """Say whether another attempt fits beside those that are handed out; none at all ends the search."""
        aside = self.journal.log.study.aside
        if self._slots is None or not aside:
            return True
        if self._room is None or self._room[0] != len(aside):
            self._room = (len(aside), self._slots(aside))
        if self._room[1] == 0 and self.is_idle:
            host, reason = list(aside.items())[-1]
            self._fail(f"no host is left to run trials on: {host} was put aside, since {reason}; mend it, start Ray")
        return len(self._attempts) < self._room[1]

    def _fail(self, sentence: str) -> None:
        study = self.journal.log.study
        self.failure = self.failure or ServiceError(
            f"{sentence} and type the same command again; {study.num_ended} of {study.budget} trials have ended, "
            "nothing of them is lost"
        )
        self.journal.stopping.set()
