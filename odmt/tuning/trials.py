"""One trial of a study and its reports, as the event log tells them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

METRIC = "valid/ndcg_at_10"
"""What a search maximises first; stopping, the best epoch and the best trial go by it."""

CONTINUE, STOP, COMPLETE, FAIL = "continue", "stop", "complete", "fail"
OUTCOME_OF = {STOP: "stopped", COMPLETE: "completed", FAIL: "failed"}
ENDED = frozenset(OUTCOME_OF.values())
SEVERAL_CODES = "several"
"""Code version of a trial that went on under another one than it was begun with: no run is equal to it."""


@dataclass(frozen=True)
class Epoch:
    """One committed report and the scheduler's verdict on it."""

    epoch: int
    metrics: Mapping[str, float]
    verdict: str
    checkpoint: str | None
    seconds: float
    time: float
    host: str | None = None

    @property
    def value(self) -> float:
        """What the search maximises; NaN where the report had no number."""
        return self.metrics.get(METRIC, math.nan)


@dataclass
class Trial:
    """One trial under its own id, whatever Tune calls it.

    Attributes:
        draws: proposals up to and with this one since the trial before.
        source: ``incumbent``, ``sampler``, or ``warm-start STUDY/TRIAL``.
        sentinel: runs to its last epoch whatever its rungs say.
        bracket: of the scheduler.
        adjust: settings that differ from ``config`` since an attempt ran out of memory; the numbers stay the same.
        epochs_at_start: epochs recorded when its last attempt began.
        in_epoch: its last attempt is in an epoch, or was when it ended, so that what it had done of it is lost.
        epochs_to_redo: those that interrupted attempts were in, until an attempt has told where it goes on.
        busy_seconds: time that its attempts have held their resources.
        place: of its ending among all records of the log, so that endings can be put in order.
    """

    trial_id: str
    number: int
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    distributions: Mapping[str, str]
    system_attrs: Mapping[str, Any]
    draws: int
    proposed: float
    source: str = "sampler"
    sentinel: bool = False
    bracket: int = 0
    code: str = ""
    state: str = "proposed"
    attempt: int = 0
    adjust: Mapping[str, Any] = field(default_factory=dict)
    epochs_at_start: int = 0
    in_epoch: bool = False
    epochs_to_redo: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    setbacks: int = 0
    reason: str | None = None
    traceback: str | None = None
    log_tail: str | None = None
    started: float = 0.0
    ended: float = 0.0
    place: int = 0
    busy_seconds: float = 0.0
    busy_since: float | None = None

    @property
    def is_ended(self) -> bool:
        """Say whether the trial's outcome is settled."""
        return self.state in ENDED

    @property
    def best(self) -> Epoch | None:
        """The epoch with the highest value, the first of equals; None before the first finite report."""
        finite = [epoch for epoch in self.epochs if math.isfinite(epoch.value)]
        return max(finite, key=lambda epoch: (epoch.value, -epoch.epoch), default=None)


def why_not_finite(objectives: Sequence[tuple[str, str]], epoch: int, metrics: Mapping[str, Any]) -> str:
    """Return the reason of a trial that failed because of what it reported."""
    wrong = [name for name, _ in objectives if metrics.get(name) is None or not math.isfinite(metrics[name])]
    named = " and ".join("the validation metric" if name == METRIC else name for name in wrong)
    return f"epoch {epoch}: {named} is not a finite number"
