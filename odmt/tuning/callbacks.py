"""Hands committed events to the MLflow mirror as plain values; after a restart the whole log again.

Called from the search's own loop, so nothing here converts, copies or touches a disk: configurations and metrics go on
as the log's own mappings, which never change.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from odmt.tuning.state import Epoch, Study, Trial

_OF_STUDY = frozenset({"warm", "opened", "reused", "setback", "aside", "limit", "extended", "exhausted", "tainted"})


class Mirror(Protocol):
    """The part of ``odmt.tracking.runs.RunMirror`` that is used here."""

    def trial_started(
        self,
        trial_id: str,
        number: int,
        params: Mapping[str, Any],
        started_ms: int,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Queue the start of a trial or of another attempt at it."""

    def trial_epoch(
        self,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float],
        timestamp_ms: int,
        seconds: float | None = None,
    ) -> None:
        """Queue one epoch's metrics."""

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
        """Queue a trial's end."""

    def study_tagged(self, tags: Mapping[str, str]) -> None:
        """Queue tags for the study's run."""

    def study_ended(self, outcome: str, summary: Mapping[str, float], ended_ms: int) -> None:
        """Queue the study's end."""


class MirrorListener:
    """A listener of the event log that feeds a mirror; the mirror itself drops what it has had before."""

    def __init__(self, mirror: Mirror) -> None:
        """Feed this mirror."""
        self._mirror = mirror

    def __call__(self, study: Study, record: Mapping[str, Any]) -> None:
        """Pass on one committed record."""
        kind = record["kind"]
        if kind in _OF_STUDY:
            self._mirror.study_tagged(study_tags(study))
        trial = study.trials.get(record.get("trial", ""))
        if trial is None:
            return
        if kind in ("started", "setback"):
            self._start(study, trial)
        elif kind == "epoch":
            self._epoch(trial, trial.epochs[-1])
        if trial.is_ended:
            self._end(trial)

    def send_all(self, study: Study) -> None:
        """Pass on everything that the log says."""
        if study.opened:
            self._mirror.study_tagged(study_tags(study))
        for trial in study.trials.values():
            if trial.attempt:
                self._start(study, trial)
            for epoch in trial.epochs:
                self._epoch(trial, epoch)
            if trial.is_ended:
                self._end(trial)

    def study_ended(self, study: Study, now: float) -> None:
        """Say how the study stands when the driver leaves; where a budget was met it is completed."""
        best = study.best
        states = [trial.state for trial in study.trials.values()]
        summary = {f"trials_{name}": float(states.count(name)) for name in ("completed", "stopped", "failed")}
        summary |= {"trials_interrupted": float(len(study.interrupted)), "proposals_reused": float(len(study.reused))}
        if best is not None and best.best is not None:
            summary |= {f"best/{name.removeprefix('valid/')}": value for name, value in best.best.metrics.items()}
        self._mirror.study_ended("completed" if study.finished and not study.tainted else "killed", summary, _ms(now))

    def _start(self, study: Study, trial: Trial) -> None:
        self._mirror.trial_started(
            trial.trial_id, trial.number, trial.config, _ms(trial.started), trial_tags(study, trial)
        )

    def _epoch(self, trial: Trial, epoch: Epoch) -> None:
        self._mirror.trial_epoch(trial.trial_id, epoch.epoch, epoch.metrics, _ms(epoch.time), epoch.seconds)

    def _end(self, trial: Trial) -> None:
        best = trial.best
        checkpoint = None
        if best is not None and best.checkpoint is not None and trial.state in ("completed", "stopped"):
            checkpoint = Path(best.checkpoint)
        metrics = {**best.metrics, "epoch": float(best.epoch)} if best is not None else {}
        self._mirror.trial_ended(
            trial.trial_id,
            trial.state,
            metrics,
            checkpoint,
            trial.reason,
            _ms(trial.ended),
            trial.traceback,
            trial.log_tail,
        )


def trial_tags(study: Study, trial: Trial) -> dict[str, str]:
    """Return what a trial's run says beside its values: where they came from, and what befell it."""
    tags = {"odmt.source": trial.source, "odmt.attempts": str(trial.attempt)}
    if trial.code:
        tags["odmt.code_version"] = trial.code
    if trial.sentinel:
        tags["odmt.sentinel"] = "true"
    if trial.adjust:
        tags["odmt.adjusted"] = _pairs(trial.adjust)
    if trial.setbacks:
        last = next(record for record in reversed(study.setbacks) if record["trial"] == trial.trial_id)
        tags["odmt.setback"] = f"attempt {last['attempt']}, {last['what']}: {last['reason']}"
    return tags


def study_tags(study: Study) -> dict[str, str]:
    """Return what the study's run says beside its parameters: starts, limits, and what befell it."""
    tags = {
        "odmt.starts": str(study.opened),
        "odmt.limit": study.limit or "none",
        "odmt.reused": str(len(study.reused)),
        "odmt.setbacks": str(len(study.setbacks)),
    }
    if study.exhausted:
        tags["odmt.exhausted"] = "true"
    if study.tainted:
        tags["odmt.tainted"] = study.tainted
    if study.aside:
        tags["odmt.aside"] = _pairs(study.aside)
    if names := study.header.get("warm_start"):
        tags["odmt.warm_start"] = ", ".join(names)
    return tags


def _pairs(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in values.items())


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
