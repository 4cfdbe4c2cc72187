"""The mirror of a study in MLflow: parent run = study, child run = trial, sent from a thread of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odmt.home import Home
from odmt.tracking.events import Study, StudyEnded, StudyTagged, TrialEnded, TrialEpoch, TrialStarted
from odmt.tracking.outbox import Outbox


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
        self._outbox = Outbox(home, Study(experiment, study, study_id, dict(tags), dict(params)))

    def start(self) -> None:
        """Connect, find or make experiment and parent run, start the worker thread.

        A caller may catch the error and go on: the thread runs in any case and keeps trying.

        Raises:
            ServiceError: MLflow cannot be reached now.
        """
        self._outbox.start()

    def trial_started(
        self,
        trial_id: str,
        number: int,
        params: Mapping[str, Any],
        started_ms: int,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Queue the start of a trial or of another attempt at it.

        Args:
            trial_id: our own id of the trial.
            number: among the study's trials, from 0.
            params: its resolved values, nested or as dotted paths; not copied, and not to be changed afterwards.
            started_ms: when its first attempt began.
            tags: for its run.
        """
        self._outbox.put(TrialStarted(trial_id, number, params, started_ms, tags))

    def trial_epoch(
        self,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float],
        timestamp_ms: int,
        seconds: float | None = None,
    ) -> None:
        """Queue one epoch's metrics, which are not copied; ``seconds``: how long it took."""
        self._outbox.put(TrialEpoch(trial_id, epoch, metrics, timestamp_ms, seconds))

    def trial_ended(
        self,
        trial_id: str,
        outcome: str,
        best: Mapping[str, float],
        checkpoint: Path | None,
        reason: str | None,
        ended_ms: int,
        traceback: str | None = None,
        log_tail: str | None = None,
    ) -> None:
        """Queue a trial's end: ``outcome`` is completed, stopped, failed or killed."""
        self._outbox.put(TrialEnded(trial_id, outcome, best, checkpoint, reason, ended_ms, traceback, log_tail))

    def study_tagged(self, tags: Mapping[str, str]) -> None:
        """Queue tags for the study's run."""
        self._outbox.put(StudyTagged(tags))

    def study_ended(self, outcome: str, summary: Mapping[str, float], ended_ms: int) -> None:
        """Queue the study's end: ``outcome`` is completed or killed. Trials without an outcome become killed."""
        self._outbox.put(StudyEnded(outcome, summary, ended_ms))

    def close(self, timeout_seconds: float = 60) -> int:
        """Send what is queued, within a time; a server that is away already gets one more try of a few seconds.

        Returns:
            Events that have not arrived; 0 = all sent.
        """
        return self._outbox.close(timeout_seconds)

    @property
    def pending(self) -> int:
        """Events that have not arrived yet."""
        return self._outbox.pending

    @property
    def standing(self) -> str:
        """How MLflow stands, in one short sentence for the screen; without secrets."""
        return self._outbox.standing

    @property
    def url(self) -> str:
        """Where the runs go, for people: without the account that the address may hold."""
        return self._outbox.url

    @property
    def parent_run_id(self) -> str | None:
        """The study's run; None while MLflow has not been reached."""
        return self._outbox.parent_run_id

    @property
    def run_page(self) -> str | None:
        """The page of the study's run, without the account; None = no server, or it has not been reached."""
        return self._outbox.run_page
