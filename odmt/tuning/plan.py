"""What a search will take, from numbers alone: trials at each rung, epochs, hours, bytes of checkpoints."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odmt.files import write_atomically
from odmt.tuning.room import KEPT, size_of_checkpoint
from odmt.tuning.scheduler import bracket_of, is_sentinel, rungs
from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.space import Space

PLAN_FILE, EXTENDED_FILE = "plan.json", "plan-extended.json"
"""The plan of the first start, and that of the last start which raised a budget."""
_MOST_COMBINATIONS = 10_000_000


@dataclass(frozen=True)
class BracketPlan:
    """What is expected of one bracket.

    Attributes:
        trials: dealt to it.
        rungs: epochs with the trials expected to be compared there.
        completed: trials expected at the last epoch.
    """

    trials: int
    rungs: tuple[tuple[int, float], ...]
    completed: float

    def epochs(self, max_epochs: int) -> float:
        """Return the epochs that its trials are expected to run."""
        points = [*self.rungs, (max_epochs, self.completed)]
        before, total = 0, 0.0
        for epoch, trials in points:
            total += trials * (epoch - before)
            before = epoch
        return total


@dataclass(frozen=True)
class Pace:
    """How long an epoch takes.

    Attributes:
        seconds: of an epoch, training and validation.
        source: where that is from.
        least: of the smallest configuration; None = not measured apart.
        most: of the largest.
    """

    seconds: float
    source: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a study is expected to take.

    Attributes:
        trials: that will be run: the budget, or every combination where those are fewer.
        max_epochs: of a trial.
        brackets: of the scheduler; one without rungs where nothing is predicted to stop.
        sentinels: trials that are never stopped.
        cpus: a trial's.
        gpus: a trial's.
        concurrent: trials at once; None = not known here.
        pace: None = not known.
        time_hours: budget.
        max_gpu_hours: budget.
        parameters: trainable ones of the configuration that has most; None = not known.
    """

    trials: int
    max_epochs: int
    brackets: tuple[BracketPlan, ...]
    sentinels: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    concurrent: int | None = None
    pace: Pace | None = None
    time_hours: float | None = None
    max_gpu_hours: float | None = None
    parameters: int | None = None

    @property
    def epochs(self) -> float:
        """Epochs expected of all trials."""
        return sum(bracket.epochs(self.max_epochs) for bracket in self.brackets)

    @property
    def epochs_of_all(self) -> int:
        """Epochs if no trial were stopped."""
        return self.trials * self.max_epochs

    @property
    def device(self) -> str:
        """What is counted in hours: ``GPU``, or ``CPU`` where trials reserve no GPU."""
        return "GPU" if self.gpus else "CPU"

    def hours(self, seconds: float) -> float | None:
        """Return the hours from start to end, by the seconds of an epoch, before any budget ends it.

        No less than one whole trial takes; None = trials at once are not known.
        """
        if self.concurrent is None:
            return None
        return max(self.epochs / self.concurrent, float(self.max_epochs)) * seconds / 3600

    def device_hours(self, seconds: float) -> float:
        """Return GPU hours (CPU hours without GPUs), by the seconds of an epoch, before any budget ends it."""
        return self.epochs * seconds * (self.gpus or self.cpus) / 3600

    @property
    def ended_by(self) -> str | None:
        """Which budget is expected to end the search before its trials are through; None = none."""
        if self.pace is None:
            return None
        hours, spent = self.hours(self.pace.seconds), self.device_hours(self.pace.seconds)
        shares = {
            "budget.time_hours": hours / self.time_hours if hours is not None and self.time_hours else 0.0,
            "budget.max_gpu_hours": spent / self.max_gpu_hours if self.max_gpu_hours else 0.0,
        }
        name = max(shares, key=lambda key: shares[key])
        return name if shares[name] > 1 else None

    @property
    def checkpoint_bytes(self) -> int | None:
        """At most, of all trials: a stopped trial keeps its checkpoints, since it may be promoted."""
        return None if self.parameters is None else self.trials * KEPT * size_of_checkpoint(self.parameters)

    def to_mapping(self) -> dict[str, Any]:
        """Return the plain numbers that the end is compared with."""
        pace = self.pace
        return {
            "trials": self.trials,
            "epochs": round(self.epochs, 1),
            "epochs_of_all": self.epochs_of_all,
            "completed": round(sum(bracket.completed for bracket in self.brackets), 1),
            "concurrent": self.concurrent,
            "device": self.device,
            "seconds_per_epoch": None if pace is None else pace.seconds,
            "source": None if pace is None else pace.source,
            "hours": None if pace is None else self.hours(pace.seconds),
            "device_hours": None if pace is None else self.device_hours(pace.seconds),
            "checkpoint_bytes": self.checkpoint_bytes,
        }


def bracket_plans(config: SchedulerConfig, trials: int, max_epochs: int, seed: int) -> tuple[BracketPlan, ...]:
    """Return what is expected of each bracket: of n trials n / reduction_factor^k are compared at rung k.

    Which trial is dealt to which bracket, and which ones are never stopped, is exact. What median stopping stops is not
    predicted: its one bracket has no rungs.
    """
    count = config.brackets if config.name == "asha" else 1
    dealt = Counter(
        (bracket_of(config, max_epochs, seed, number), is_sentinel(config, trials, number)) for number in range(trials)
    )
    plans = []
    for bracket in range(count):
        free, kept = dealt[bracket, False], dealt[bracket, True]
        epochs = rungs(config, max_epochs, bracket)
        reach = [kept + free / config.reduction_factor**k for k in range(len(epochs) + 1)]
        plans.append(BracketPlan(free + kept, tuple(zip(epochs, reach, strict=False)), reach[-1]))
    return tuple(plans)


def combinations(space: Space) -> int | None:
    """Return how many combinations of values can be reached; None where they are not finite, or too many to count."""
    options = {path: axis.listed() for path, axis in space.axes.items()}
    if any(values is None for values in options.values()):
        return None
    deciding = {path for axis in space.axes.values() for path in axis.when}
    reached: list[tuple[dict[str, Any], tuple[str, ...], int]] = [({}, (), 1)]
    for path, axis in space.axes.items():
        values = options[path] or ()
        grown = []
        for chosen, active, times in reached:
            if not space.is_active(axis, chosen, active):
                grown.append((chosen, active, times))
            elif path in deciding:
                grown += [({**chosen, path: value}, (*active, path), times) for value in values]
            else:
                grown.append((chosen, (*active, path), times * len(values)))
        reached = grown
        if len(reached) > _MOST_COMBINATIONS:
            return None
    return sum(times for _, _, times in reached)


def write_plan(folder: Path, plan: Plan, *, extended: bool = False) -> None:
    """Keep a plan beside a study's log, for the end; ``extended``: a budget was raised, the first plan stays."""
    write_atomically(
        folder / (EXTENDED_FILE if extended else PLAN_FILE), json.dumps(plan.to_mapping(), indent=1).encode()
    )


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Return what ``write_plan`` kept last; None if nothing was, or it cannot be read."""
    for name in (EXTENDED_FILE, PLAN_FILE):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found
    return None
