"""Real samplers and the real scheduler on a virtual clock: a search that takes its epochs from a table."""

import dataclasses
import heapq
import itertools
import random
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast

from odmt.tuning.axes import Axis
from odmt.tuning.event_log import EventLog, decode, encode
from odmt.tuning.folding import apply
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Assignment, Journal
from odmt.tuning.samplers import grid
from odmt.tuning.space import Space
from odmt.tuning.state import CONTINUE, METRIC, Study
from parts.efficiency_table import Curve, Table


class Point(NamedTuple):
    """What had been spent when a report was recorded, and what it said.

    Attributes:
        epochs: recorded so far, of all trials together, this one included.
        seconds: of computing so far, of all trials together, the part of epochs that were under way included.
        trials: begun so far.
        value: validation NDCG@10 of this report.
    """

    epochs: int
    seconds: float
    trials: int
    value: float


class Method(NamedTuple):
    """One way to search.

    Attributes:
        sampler: ``grid``, ``random`` or ``tpe``.
        scheduler: ``asha`` or ``none``.
        at_once: trials under way together.
        shuffled: of the grid alone: loops and values in an order drawn by the search seed, not as they are written.
    """

    sampler: Literal["grid", "random", "tpe"]
    scheduler: Literal["asha", "none"]
    at_once: int = 2
    shuffled: bool = False


class MemoryLog:
    """A study's log that no disk keeps: records are encoded, decoded and folded as the real one's.

    Attributes:
        study: what the log says.
        now: seconds on the virtual clock.
    """

    def __init__(self) -> None:
        self.study = Study()
        self.now = 0.0
        self.failure = None

    def commit(self, kind: str, **fields: Any) -> None:
        """Fold a record."""
        apply(self.study, decode(encode({"kind": kind, "time": self.now, **fields})[:-1]))


def searched(space: Space, method: Method, seed: int, trials: int | None = None) -> Space:
    """Return the space as one search of one method sees it.

    Nobody begins at a chosen place: the first trial of a sampler is a combination drawn by the search seed, which is
    what a random search does in any case; that of the grid is the first of its own order. Without ``trials`` it
    goes on until every combination was tried.
    """
    draw = random.Random(seed)
    axes = dict(space.axes)
    if method.shuffled:
        axes = {path: axes[path] for path in draw.sample(list(axes), len(axes))}
        for path, axis in axes.items():
            values = axis.grid_values() or ()
            order = tuple(draw.sample(values, len(values)))
            axes[path] = _reordered(axis, order)
    known = dataclasses.replace(
        space,
        axes=axes,
        sampler=dataclasses.replace(space.sampler, name=method.sampler, seed=seed),
        scheduler=dataclasses.replace(space.scheduler, name=method.scheduler),
    )
    combinations = list(grid(known))
    first = combinations[0] if method.sampler == "grid" else draw.choice(combinations)
    budget = dataclasses.replace(space.budget, trials=trials or len(combinations))
    return dataclasses.replace(known, incumbent=first, budget=budget)


def _reordered(axis: Axis, order: tuple[Any, ...]) -> Axis:
    if axis.kind == "choice":
        return dataclasses.replace(axis, values=order)
    return dataclasses.replace(axis, grid=order)


def replay(space: Space, table: Table, at_once: int, log: MemoryLog | None = None) -> Iterator[Point]:
    """Run a search to its end on the virtual clock, yielding every report in the order of time.

    A trial's next epoch begins when its last one was judged, a new trial when another has ended; proposing takes no
    time. At equal times the trial that began first reports first. What happens is told to the log, if one is given.
    """
    log = log or MemoryLog()
    open_study(cast(EventLog, log), "replay", space, "table", extend=False)
    journal = Journal(space, cast(EventLog, log))
    try:
        yield from _reports(journal, log, _Clock(table), at_once)
    finally:
        journal.close()


def _reports(journal: Journal, log: MemoryLog, clock: "_Clock", at_once: int) -> Iterator[Point]:
    epochs, finished_seconds = 0, 0.0
    clock.begin_trials(journal, at_once)
    while clock.running:
        ending = clock.next()
        log.now = ending.time
        epochs, finished_seconds = epochs + 1, finished_seconds + ending.seconds
        under_way = sum(ending.time - other.begun for other in clock.running)
        value = ending.curve.ndcg[ending.epoch - 1]
        report = {"epoch": ending.epoch, "metrics": {METRIC: value}, "seconds": ending.seconds, "checkpoint": None}
        decided = journal.report(ending.trial_id, report)
        yield Point(epochs, finished_seconds + under_way, len(log.study.trials), value)
        if decided == CONTINUE:
            clock.begin_epoch(ending.trial_id, ending.order, ending.curve, ending.epoch + 1)
        else:
            clock.begin_trials(journal, at_once)


class _Epoch(NamedTuple):
    """An epoch under way; ordered by its end, then by its trial's beginning."""

    time: float
    order: int
    begun: float
    trial_id: str
    curve: Curve
    epoch: int

    @property
    def seconds(self) -> float:
        return self.curve.seconds[self.epoch - 1]


class _Clock:
    """The epochs under way, by the time of their end."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._orders = itertools.count()
        self.now = 0.0
        self.running: list[_Epoch] = []

    def next(self) -> _Epoch:
        ending = heapq.heappop(self.running)
        self.now = ending.time
        return ending

    def begin_trials(self, journal: Journal, at_once: int) -> None:
        while len(self.running) < at_once:
            assignment: Assignment | None = journal.next_assignment()
            if assignment is None:
                return
            curve = self._table.curve(journal.log.study.trials[assignment.trial_id].values)
            self.begin_epoch(assignment.trial_id, next(self._orders), curve, 1)

    def begin_epoch(self, trial_id: str, order: int, curve: Curve, epoch: int) -> None:
        ends = self.now + curve.seconds[epoch - 1]
        heapq.heappush(self.running, _Epoch(ends, order, self.now, trial_id, curve, epoch))


def reaching(points: Iterator[Point], target: float) -> Point | None:
    """Return the first report of a value at or above the target; None = the search ended without one."""
    return next((point for point in points if point.value >= target), None)
