"""Hands committed events to the MLflow mirror as plain values; after a restart the whole log again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from odmt.config import RunConfig, dotted_values, from_mapping
from odmt.tuning.state import Epoch, Study, Trial
from odmt.tuning.study import best_checkpoint


class Mirror(Protocol):
    """The part of ``odmt.tracking.runs.RunMirror`` that is used here."""

    def trial_started(self, trial_id: str, number: int, params: Mapping[str, Any], started_ms: int) -> None:
        """Queue a trial's start."""

    def trial_epoch(self, trial_id: str, epoch: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Queue one epoch's metrics."""

    def trial_ended(
        self,
        trial_id: str,
        outcome: str,
        best: Mapping[str, float],
        checkpoint: Path | None,
        reason: str | None,
        ended_ms: int,
    ) -> None:
        """Queue a trial's end."""

    def study_ended(self, outcome: str, summary: Mapping[str, float], ended_ms: int) -> None:
        """Queue the study's end."""


class MirrorListener:
    """A listener of the event log that feeds a mirror; the mirror itself drops what it has had before."""

    def __init__(self, mirror: Mirror) -> None:
        """Feed this mirror."""
        self._mirror = mirror

    def __call__(self, study: Study, record: Mapping[str, Any]) -> None:
        """Pass on one committed record."""
        trial = study.trials.get(record.get("trial", ""))
        if trial is None:
            return
        if record["kind"] == "started" and record["attempt"] == 1:
            self._start(trial)
        elif record["kind"] == "epoch":
            self._epoch(trial, trial.epochs[-1])
        if trial.is_ended:
            self._end(trial)

    def send_all(self, study: Study) -> None:
        """Pass on everything that the log says."""
        for trial in study.trials.values():
            if trial.attempt:
                self._start(trial)
            for epoch in trial.epochs:
                self._epoch(trial, epoch)
            if trial.is_ended:
                self._end(trial)

    def study_ended(self, study: Study, now: float) -> None:
        """Say how the study stands when the driver leaves."""
        best = study.best
        states = [trial.state for trial in study.trials.values()]
        summary = {f"trials_{name}": float(states.count(name)) for name in ("completed", "stopped", "failed")}
        if best is not None and best.best is not None:
            summary |= {f"best/{name.removeprefix('valid/')}": value for name, value in best.best.metrics.items()}
        self._mirror.study_ended("completed" if study.finished and not study.tainted else "killed", summary, _ms(now))

    def _start(self, trial: Trial) -> None:
        config = from_mapping(RunConfig, trial.config, f"trial {trial.trial_id}")
        self._mirror.trial_started(trial.trial_id, trial.number, dotted_values(config), _ms(trial.started))

    def _epoch(self, trial: Trial, epoch: Epoch) -> None:
        metrics = {**epoch.metrics, "seconds": epoch.seconds}
        self._mirror.trial_epoch(trial.trial_id, epoch.epoch, metrics, _ms(epoch.time))

    def _end(self, trial: Trial) -> None:
        best = trial.best
        checkpoint = best_checkpoint(trial) if trial.state in ("completed", "stopped") else None
        metrics = {**best.metrics, "epoch": float(best.epoch)} if best is not None else {}
        # The last line is what the run's tag shows; the traceback stands before it.
        reason = "\n".join(filter(None, (trial.traceback, trial.reason))) or None
        self._mirror.trial_ended(trial.trial_id, trial.state, metrics, checkpoint, reason, _ms(trial.ended))


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
