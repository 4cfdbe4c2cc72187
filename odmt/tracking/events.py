"""What happens in a study, as plain values on their way to MLflow.

Events refer to the mappings they are given and never copy them: while a server is away what waits is a hundred bytes
or two an event, beside metrics and configurations that the folded event log holds anyway.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class TrialStarted(NamedTuple):
    """A trial begins, or begins again; ``params`` as dotted paths or nested."""

    trial_id: str
    number: int
    params: Mapping[str, Any]
    at_ms: int
    tags: Mapping[str, str] | None = None


class TrialEpoch(NamedTuple):
    """One epoch's metrics, and how long it took where that is not among them."""

    trial_id: str
    epoch: int
    metrics: Mapping[str, float]
    at_ms: int
    seconds: float | None = None


class TrialEnded(NamedTuple):
    """A trial's outcome, best values and best checkpoint; of a failed one why, traceback and last log lines."""

    trial_id: str
    outcome: str
    best: Mapping[str, float]
    checkpoint: Path | None
    reason: str | None
    at_ms: int
    traceback: str | None = None
    log_tail: str | None = None


class StudyTagged(NamedTuple):
    """What the parent run says from now on."""

    tags: Mapping[str, str]


class StudyEnded(NamedTuple):
    """The study's outcome and its summary."""

    outcome: str
    summary: Mapping[str, float]
    at_ms: int


Event = TrialStarted | TrialEpoch | TrialEnded | StudyTagged | StudyEnded


@dataclass(frozen=True)
class Study:
    """What the parent run says about itself."""

    experiment: str
    name: str
    study_id: str
    tags: Mapping[str, str]
    params: Mapping[str, Any]
