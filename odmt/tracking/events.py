"""What happens in a study, as plain values on their way to MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class TrialStarted(NamedTuple):
    """A trial begins, or begins again."""

    trial_id: str
    number: int
    params: Mapping[str, Any]
    at_ms: int


class TrialEpoch(NamedTuple):
    """One epoch's metrics."""

    trial_id: str
    epoch: int
    metrics: Mapping[str, float]
    at_ms: int


class TrialEnded(NamedTuple):
    """A trial's outcome, best values and best checkpoint."""

    trial_id: str
    outcome: str
    best: Mapping[str, float]
    checkpoint: Path | None
    reason: str | None
    at_ms: int


class StudyEnded(NamedTuple):
    """The study's outcome and its summary."""

    outcome: str
    summary: Mapping[str, float]
    at_ms: int


Event = TrialStarted | TrialEpoch | TrialEnded | StudyEnded


@dataclass(frozen=True)
class Study:
    """What the parent run says about itself."""

    experiment: str
    name: str
    study_id: str
    tags: Mapping[str, str]
    params: Mapping[str, Any]
