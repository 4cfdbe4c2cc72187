"""What a study is: the fold of its events, which ``folding.apply`` makes."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from odmt.tuning.trials import COMPLETE, CONTINUE, ENDED, FAIL, METRIC, OUTCOME_OF, STOP, Epoch, Trial

__all__ = ["COMPLETE", "CONTINUE", "ENDED", "FAIL", "METRIC", "OUTCOME_OF", "STOP", "Epoch", "Reuse", "Study", "Trial"]


LOG_FORMAT = 2
"""Of the records that this version writes. Since 2 attempts tell when they begin and are left (``began``, ``left``)."""


@dataclass(frozen=True)
class Reuse:
    """A proposal that equalled an earlier trial: told to the sampler with that trial's result, and not run."""

    of: str
    values: Mapping[str, Any]
    distributions: Mapping[str, str]
    system_attrs: Mapping[str, Any]


@dataclass(frozen=True)
class WarmTrial:
    """A trial of an earlier study that this one begins with.

    Attributes:
        trial: its id there.
        values: those of its values that are axes here.
        distributions: how Optuna describes these axes; empty in a proposal.
        value: the best validation metric there.
        rank: among all proposals of a warm start, from 0.
    """

    study: str
    trial: str
    values: Mapping[str, Any]
    distributions: Mapping[str, str]
    value: float
    rank: int = 0


@dataclass
class Study:
    """Everything that is known about a study.

    Attributes:
        order: trials' ids and reused proposals in the order in which the sampler made them.
        study_attrs: what Optuna's sampler wants to find at the study.
        evidence: earlier studies' trials that the sampler knows as if they were of this one.
        warmed: the ``warm`` records, one an earlier study.
        queue: values of earlier studies' trials, proposed after the incumbent.
        seconds_used: time that drivers have searched.
        device_seconds: GPU seconds times the fraction a trial reserves; CPU seconds times CPUs where it reserves none.
        limit: the budget that was met: ``time`` or ``gpu-hours``; None = none.
    """

    header: Mapping[str, Any] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    reused: list[Reuse] = field(default_factory=list)
    order: list[str | Reuse] = field(default_factory=list)
    study_attrs: dict[str, Any] = field(default_factory=dict)
    evidence: list[WarmTrial] = field(default_factory=list)
    queue: list[WarmTrial] = field(default_factory=list)
    warmed: list[Mapping[str, Any]] = field(default_factory=list)
    budget: int = 0
    seconds_allowed: float | None = None
    gpu_hours_allowed: float | None = None
    seconds_used: float = 0.0
    device_seconds: float = 0.0
    uses_gpu: bool = False
    devices: float = 0.0
    limit: str | None = None
    exhausted: bool = False
    tainted: str | None = None
    opened: int = 0
    code: str = ""
    last_time: float | None = None
    records: int = 0
    resumed: int = 0
    epochs_redone: int = 0
    setbacks: list[Mapping[str, Any]] = field(default_factory=list)
    aside: dict[str, str] = field(default_factory=dict)

    @property
    def num_ended(self) -> int:
        """Trials with an outcome."""
        return sum(trial.is_ended for trial in self.trials.values())

    @property
    def wants_proposal(self) -> bool:
        """Say whether another trial is to be proposed."""
        return len(self.trials) < self.budget and not self.exhausted and self.limit is None

    @property
    def finished(self) -> bool:
        """Say whether nothing is left to do: all trials have ended, or a budget of time has been met."""
        return self.limit is not None or (not self.wants_proposal and self.num_ended == len(self.trials))

    @property
    def interrupted(self) -> list[Trial]:
        """Trials without an outcome, in the order of their numbers."""
        return [trial for trial in self.trials.values() if not trial.is_ended]

    @property
    def objectives(self) -> list[tuple[str, str]]:
        """What is searched for: metrics with ``max`` or ``min``, ``METRIC`` first."""
        return [(name, mode) for name, mode in self.header.get("objectives", [[METRIC, "max"]])]

    @property
    def reused_in_a_row(self) -> int:
        """Proposals since the last trial that equalled earlier trials."""
        count = 0
        for item in reversed(self.order):
            if not isinstance(item, Reuse):
                break
            count += 1
        return count

    @property
    def best(self) -> Trial | None:
        """The completed or stopped trial with the highest value; the first of equals."""
        able = [(trial, trial.best) for trial in self.trials.values() if trial.state in ("completed", "stopped")]
        scored = [(best.value, -trial.number, trial) for trial, best in able if best is not None]
        return max(scored, key=lambda item: item[:2])[2] if scored else None

    def snapshot(self) -> "Study":
        """Return a copy that later records do not change; epochs and values are shared, being immutable."""
        taken = copy.copy(self)
        taken.trials = {
            name: trial if trial.is_ended else dataclasses.replace(trial, epochs=list(trial.epochs))
            for name, trial in self.trials.items()
        }
        taken.reused, taken.order = list(self.reused), list(self.order)
        taken.study_attrs, taken.setbacks = dict(self.study_attrs), list(self.setbacks)
        return taken
