"""The mirror of a study in MLflow: parent run = study, child run = trial, sent from a thread of its own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from odmt.errors import ServiceError
from odmt.home import Home
from odmt.tracking.connection import is_passing, unreachable
from odmt.tracking.delivery import Delivery
from odmt.tracking.events import Event, Study, StudyEnded, TrialEnded, TrialEpoch, TrialStarted

EVENTS_A_TURN = 200
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
LAST_TRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class RunMirror:
    """Mirror a study into MLflow from a worker thread; every method but start and close returns at once.

    A server that goes away neither blocks nor ends the caller: events stay queued and are sent when it is back. What
    an earlier process already sent is found by the tags ``odmt.study_id`` and ``odmt.trial``, so after a restart the
    caller sends its whole log again and nothing is there twice: trials with an outcome are skipped, others
    continue after the last epoch that arrived.
    """

    def __init__(
        self,
        home: Home,
        *,
        experiment: str,
        study: str,
        study_id: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
    ) -> None:
        """Remember what to mirror; nothing is imported or connected yet.

        Args:
            home: where the default database and the artifacts lie.
            experiment: MLflow's experiment, one a data set.
            study: the study's readable name.
            study_id: its identity.
            tags: for every run, such as ``odmt.data_digest`` and ``odmt.code_version``.
            params: of the parent run.
        """
        self._home = home
        self._study = Study(experiment, study, study_id, dict(tags), dict(params))
        self._events: deque[Event] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._deadline = 0.0
        self._away = False
        self._gave_up = False
        self._delivery: Delivery | None = None
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Connect, find or make experiment and parent run, start the worker thread.

        A caller may catch the error and go on: the thread runs in any case and keeps trying.

        Raises:
            ServiceError: MLflow cannot be reached now.
        """
        try:
            self._delivery = Delivery(self._home, self._study)
        except Exception as error:
            self._away = True
            if isinstance(error, ServiceError):
                raise
            raise unreachable(self.url, error) from error
        finally:
            self._thread = threading.Thread(target=self._work, name="odmt-mlflow", daemon=True)
            self._thread.start()

    def trial_started(self, trial_id: str, number: int, params: Mapping[str, Any], started_ms: int) -> None:
        """Queue a trial's start; ``params`` are its resolved values, keys as dotted paths."""
        self._put(TrialStarted(trial_id, number, dict(params), started_ms))

    def trial_epoch(self, trial_id: str, epoch: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Queue one epoch's metrics."""
        self._put(TrialEpoch(trial_id, epoch, dict(metrics), timestamp_ms))

    def trial_ended(
        self,
        trial_id: str,
        outcome: str,
        best: Mapping[str, float],
        checkpoint: Path | None,
        reason: str | None,
        ended_ms: int,
    ) -> None:
        """Queue a trial's end: ``outcome`` is completed, stopped, failed or killed."""
        self._put(TrialEnded(trial_id, outcome, dict(best), checkpoint, reason, ended_ms))

    def study_ended(self, outcome: str, summary: Mapping[str, float], ended_ms: int) -> None:
        """Queue the study's end: ``outcome`` is completed or killed."""
        self._put(StudyEnded(outcome, dict(summary), ended_ms))

    def close(self, timeout_seconds: float = 60) -> int:
        """Send what is queued, within a time; a server that is away already gets one more try of a few seconds.

        Returns:
            Events that have not arrived; 0 = all sent.
        """
        with self._wake:
            self._closing = True
            self._deadline = time.monotonic() + timeout_seconds
            self._wake.notify_all()
            if self._thread is not None and self._events and self._away:
                last_try = min(timeout_seconds, LAST_TRY_SECONDS)
                if not self._wake.wait_for(lambda: not self._away or self._gave_up, last_try):
                    self._deadline = 0.0
                    return len(self._events) + self._dropped
        if self._thread is not None:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return len(self._events) + self._dropped

    @property
    def pending(self) -> int:
        """Events that have not arrived yet."""
        return len(self._events)

    @property
    def url(self) -> str:
        """Where the runs go."""
        return self._home.tracking_uri

    @property
    def parent_run_id(self) -> str | None:
        """The study's run; None while MLflow has not been reached."""
        return self._delivery.parent_run_id if self._delivery else None

    def _put(self, event: Event) -> None:
        with self._wake:
            self._events.append(event)
            self._wake.notify_all()

    def _work(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while self._next_turn():
            last_try = self._closing and self._away
            try:
                self._turn()
                wait = FIRST_WAIT_SECONDS
                self._set_away(False)
            except Exception as error:
                if not self._later(error):
                    self._set_away(False)
                    continue
                self._set_away(True)
                level = logging.WARNING if wait == FIRST_WAIT_SECONDS else logging.DEBUG  # once an outage
                _log.log(level, "MLflow at %s is away; %d events wait: %s", self.url, self.pending, _first_line(error))
                with self._wake:
                    if last_try:
                        self._gave_up = True
                        self._wake.notify_all()
                        return
                    left = self._deadline - time.monotonic() if self._closing else wait
                    self._wake.wait(max(0.0, min(wait, left)))
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _set_away(self, away: bool) -> None:
        with self._wake:
            self._away = away
            self._wake.notify_all()

    def _next_turn(self) -> bool:
        with self._wake:
            while not self._events and not self._closing:
                self._wake.wait()
            return bool(self._events) and not (self._closing and time.monotonic() > self._deadline)

    def _turn(self) -> None:
        if self._delivery is None:
            self._delivery = Delivery(self._home, self._study)
        elif self._away:
            self._delivery.look_again()
        events = list(islice(self._events, EVENTS_A_TURN))
        try:
            self._delivery.send(events)
        except Exception as error:
            if len(events) == 1 or is_passing(error):
                raise
            # One of them is refused for good: send them one by one, so that only that one is lost.
            for event in events:
                self._delivery.send([event])
                self._events.popleft()
        else:
            for _ in events:
                self._events.popleft()

    def _later(self, error: Exception) -> bool:
        """Say whether to try again; an event that MLflow refuses for good is dropped with a warning."""
        if self._delivery is None or isinstance(error, ServiceError) or is_passing(error):
            return True
        event = self._events.popleft()
        self._dropped += 1
        _log.warning("MLflow refuses %s: %s", event, _first_line(error))
        return False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
