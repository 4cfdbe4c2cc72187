"""What a study is: the fold of its events. Live and on replay the same ``apply`` is used, so they cannot drift."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METRIC = "valid/ndcg_at_10"
"""What a search maximises."""

CONTINUE, STOP, COMPLETE, FAIL = "continue", "stop", "complete", "fail"
OUTCOME_OF = {STOP: "stopped", COMPLETE: "completed", FAIL: "failed"}
ENDED = frozenset(OUTCOME_OF.values())


@dataclass(frozen=True)
class Epoch:
    """One committed report and the scheduler's verdict on it."""

    epoch: int
    metrics: Mapping[str, float]
    verdict: str
    checkpoint: str | None
    seconds: float
    time: float

    @property
    def value(self) -> float:
        """What the search maximises; NaN where the report had no number."""
        return self.metrics.get(METRIC, math.nan)


@dataclass
class Trial:
    """One trial under its own id, whatever Tune calls it."""

    trial_id: str
    number: int
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    distributions: Mapping[str, str]
    system_attrs: Mapping[str, Any]
    draws: int
    proposed: float
    state: str = "proposed"
    attempt: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    reason: str | None = None
    traceback: str | None = None
    started: float = 0.0
    ended: float = 0.0

    @property
    def is_ended(self) -> bool:
        """Say whether the trial's outcome is settled."""
        return self.state in ENDED

    @property
    def best(self) -> Epoch | None:
        """The epoch with the highest value, the first of equals; None before the first finite report."""
        finite = [epoch for epoch in self.epochs if math.isfinite(epoch.value)]
        return max(finite, key=lambda epoch: (epoch.value, -epoch.epoch), default=None)


@dataclass
class Study:
    """Everything that is known about a study."""

    header: Mapping[str, Any] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    budget: int = 0
    exhausted: bool = False
    tainted: str | None = None

    @property
    def num_ended(self) -> int:
        """Trials with an outcome."""
        return sum(trial.is_ended for trial in self.trials.values())

    @property
    def wants_proposal(self) -> bool:
        """Say whether another trial is to be proposed."""
        return len(self.trials) < self.budget and not self.exhausted

    @property
    def finished(self) -> bool:
        """Say whether nothing is left to do."""
        return not self.wants_proposal and self.num_ended == len(self.trials)

    @property
    def interrupted(self) -> list[Trial]:
        """Trials without an outcome, in the order of their numbers."""
        return [trial for trial in self.trials.values() if not trial.is_ended]

    @property
    def best(self) -> Trial | None:
        """The completed or stopped trial with the highest value; the first of equals."""
        able = [(trial, trial.best) for trial in self.trials.values() if trial.state in ("completed", "stopped")]
        scored = [(best.value, -trial.number, trial) for trial, best in able if best is not None]
        return max(scored, key=lambda item: item[:2])[2] if scored else None


def apply(study: Study, record: Mapping[str, Any]) -> None:
    """Fold one record into the study.

    Raises:
        ValueError: the record cannot follow what came before it; the study is unchanged.
        KeyError: the record lacks a field.
    """
    kind = record["kind"]
    if kind == "header":
        if study.trials:
            raise ValueError("a second header after the first trial")
        study.budget = record["trials"]
        study.header = record
        return
    if not study.header:
        raise ValueError("a record before the header")
    if kind not in _APPLY:
        raise ValueError(f"unknown kind {kind!r}")
    _APPLY[kind](study, record)


def _proposed(study: Study, record: Mapping[str, Any]) -> None:
    if record["trial"] in study.trials or record["number"] != len(study.trials):
        raise ValueError(f"trial {record['trial']} number {record['number']} is out of order")
    study.trials[record["trial"]] = Trial(
        trial_id=record["trial"],
        number=record["number"],
        values=record["values"],
        config=record["config"],
        distributions=record["distributions"],
        system_attrs=record["system_attrs"],
        draws=record["draws"],
        proposed=record["time"],
    )


def _started(study: Study, record: Mapping[str, Any]) -> None:
    trial = _open_trial(study, record)
    if record["attempt"] != trial.attempt + 1:
        raise ValueError(f"attempt {record['attempt']} follows attempt {trial.attempt}")
    trial.attempt = record["attempt"]
    trial.started = trial.started or record["time"]
    trial.state = "running"


def _epoch(study: Study, record: Mapping[str, Any]) -> None:
    trial = _open_trial(study, record)
    if record["epoch"] != len(trial.epochs) + 1:
        raise ValueError(f"epoch {record['epoch']} follows epoch {len(trial.epochs)}")
    verdict = record["verdict"]
    if verdict != CONTINUE and verdict not in OUTCOME_OF:
        raise ValueError(f"unknown verdict {verdict!r}")
    metrics = {name: math.nan if value is None else float(value) for name, value in record["metrics"].items()}
    epoch = Epoch(record["epoch"], metrics, verdict, record["checkpoint"], record["seconds"], record["time"])
    trial.epochs.append(epoch)
    if verdict in OUTCOME_OF:
        _end(trial, OUTCOME_OF[verdict], record.get("reason"), record["time"])


def _ended(study: Study, record: Mapping[str, Any]) -> None:
    if record["state"] not in ENDED:
        raise ValueError(f"unknown state {record['state']!r}")
    trial = _open_trial(study, record)
    trial.traceback = record.get("traceback")
    _end(trial, record["state"], record["reason"], record["time"])


def _extended(study: Study, record: Mapping[str, Any]) -> None:
    if record["trials"] <= study.budget:
        raise ValueError(f"{record['trials']} trials do not extend {study.budget}")
    study.budget = record["trials"]


def _exhausted(study: Study, record: Mapping[str, Any]) -> None:
    del record
    study.exhausted = True


def _tainted(study: Study, record: Mapping[str, Any]) -> None:
    study.tainted = record["reason"]


def _open_trial(study: Study, record: Mapping[str, Any]) -> Trial:
    trial = study.trials.get(record["trial"])
    if trial is None or trial.is_ended:
        raise ValueError(f"trial {record['trial']} is {'unknown' if trial is None else trial.state}")
    return trial


def _end(trial: Trial, state: str, reason: str | None, when: float) -> None:
    trial.state, trial.reason, trial.ended = state, reason, when


_APPLY = {
    "proposed": _proposed,
    "started": _started,
    "epoch": _epoch,
    "ended": _ended,
    "extended": _extended,
    "exhausted": _exhausted,
    "tainted": _tainted,
}
