"""What a report is made of: a study's folded log, its header, and whether a driver is at work. No space file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from odmt.errors import StudyError
from odmt.home import Home
from odmt.tuning.axes import Axis, read_axis
from odmt.tuning.event_log import decode, is_owned, replay
from odmt.tuning.plan import read_plan
from odmt.tuning.state import Epoch, Study, Trial
from odmt.tuning.study import check_name, read_study

COMPLETED, STOPPED, FAILED, RUNNING, INTERRUPTED = "completed", "stopped", "failed", "running", "interrupted"
OUTCOMES = (COMPLETED, STOPPED, FAILED, RUNNING, INTERRUPTED)
RANKED = frozenset({COMPLETED, STOPPED})


class Objective(NamedTuple):
    """A metric and the better direction."""

    metric: str
    is_max: bool

    def of(self, epoch: Epoch | None) -> float:
        """Return the metric at an epoch; NaN where there is none."""
        return epoch.metrics.get(self.metric, math.nan) if epoch is not None else math.nan

    @property
    def in_words(self) -> str:
        """Return ``max valid/ndcg_at_10`` and the like."""
        return f"{'max' if self.is_max else 'min'} {self.metric}"


@dataclass(frozen=True)
class Facts:
    """A study as a report needs it."""

    name: str
    study: Study
    is_running: bool
    opened: tuple[Mapping[str, Any], ...] = ()
    """The ``opened`` records: one a start of the driver."""
    plan: Mapping[str, Any] | None = None
    """What ``read_plan`` gave; None = nothing was planned."""

    @property
    def header(self) -> Mapping[str, Any]:
        """Return the log's first record."""
        return self.study.header

    @property
    def identity(self) -> Mapping[str, Any]:
        """Return what made the trials what they are: configuration, axes, incumbent, sampler, scheduler."""
        found: Mapping[str, Any] = self.header["identity"]
        return found

    @property
    def trials(self) -> list[Trial]:
        """Return the trials in the order of their numbers."""
        return list(self.study.trials.values())

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """Return the objectives; the first one ranks."""
        return tuple(Objective(metric, mode == "max") for metric, mode in self.study.objectives)

    @cached_property
    def axes(self) -> dict[str, Axis]:
        """Return the searched settings by dotted path, as the header describes them."""
        problems: list[str] = []
        found = {path: read_axis(path, mapping, problems) for path, mapping in self.identity["axes"]}
        if problems:
            raise StudyError(f"study {self.name!r}: its header holds an axis this version cannot read: {problems[0]}")
        return {path: axis for path, axis in found.items() if axis is not None}

    @property
    def standing(self) -> str:
        """Say in a word how the study stands."""
        if self.study.tainted:
            return "tainted"
        if self.is_running:
            return RUNNING
        return "finished" if self.study.finished else INTERRUPTED

    def outcome(self, trial: Trial) -> str:
        """Return a trial's outcome; without one it is running or interrupted."""
        return trial.state if trial.is_ended else RUNNING if self.is_running else INTERRUPTED

    def value(self, trial: Trial) -> float:
        """Return the first objective at a trial's best epoch; NaN where there is none."""
        return self.objectives[0].of(trial.best)

    def ranked(self) -> list[Trial]:
        """Return the completed and stopped trials, best first; the earlier of equals first."""
        sign = -1 if self.objectives[0].is_max else 1
        able = [trial for trial in self.trials if trial.state in RANKED and math.isfinite(self.value(trial))]
        return sorted(able, key=lambda trial: (sign * self.value(trial), trial.number))

    @property
    def best(self) -> Trial | None:
        """Return the first of the ranked trials."""
        return next(iter(self.ranked()), None)

    def count(self, outcome: str) -> int:
        """Return how many trials have an outcome."""
        return sum(self.outcome(trial) == outcome for trial in self.trials)


def read_facts(home: Home, name: str) -> Facts:
    """Read a study from its log, whether or not a driver is running it.

    Raises:
        StudyError: there is no such study, or it is no name; names those that exist.
        EventLogError: its log is damaged.
    """
    check_name(home, name)
    path = home.study(name) / "events.jsonl"
    content = path.read_bytes() if path.is_file() else b""
    study, length = replay(path, content)
    if not study.header:
        read_study(home, name)  # has the sentence for it
    lines = [line for line in content[:length].split(b"\n") if b'"kind":"opened"' in line]
    opened = [record for record in map(decode, lines) if record["kind"] == "opened"]
    return Facts(name, study, is_owned(path.parent), tuple(opened), read_plan(path.parent))


def max_epochs(trial: Trial) -> int:
    """Return the epochs after which a trial is complete."""
    return int(trial.config["train"]["max_epochs"])
