"""The live view of a search: as large as the terminal is, and plain lines where there is none."""

import math
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from odmt.tuning.budget import device_hours, seconds_used
from odmt.tuning.estimates import seconds_left
from odmt.tuning.rung_view import rung_line, rung_rows, rung_table
from odmt.tuning.space import Space
from odmt.tuning.state import Study
from odmt.tuning.wording import clock, counts, leading, shown_values, state_of, trial_line, with_state

_LINE_SECONDS = 15.0
"""Without a terminal: between two lines while no trial ends."""
_STANDING_SECONDS = 60.0
"""Without a terminal: between two times that MLflow's standing is told while all is well."""
_LEAST_TRIALS = 3
"""Rows that trials keep where the terminal is low."""
_ROOMY = (70, 20)
"""Columns and lines of a terminal on which the best trial's values may take several lines."""
_MOST_LINES = 3
_LOUD = {
    "setback": "attempt {attempt} of {trial} ended badly ({what}): {reason}",
    "aside": "{host} is put aside: {reason}",
    "limit": "budget of {what} met: {used:.2f} of {allowed:g} h",
}
_STYLES = {"completed": "green", "stopped": "dim", "failed": "red", "waiting": "yellow"}


def _nothing() -> str:
    return ""


class StudyProgress:
    """A listener of the event log that shows how the search goes."""

    def __init__(
        self,
        study: Study,
        space: Space,
        *,
        standing: Callable[[], str] = _nothing,
        console: Console | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare the view.

        Args:
            study: the folded log; only read.
            space: its scheduler and budget.
            standing: says how MLflow stands, in one sentence without credentials; empty = nothing to say.
            console: where to; None = standard error.
            clock: gives the time in seconds since 1970, as the log has it.
        """
        self._study = study
        self._space = space
        self._standing = standing
        self._console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._clock = clock
        self._begun = self._last_line = clock()
        self._last_standing = -math.inf
        self._epochs_before = _epochs(study)
        self._live: Live | None = None
        self._shown: Group | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=2, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)

    def __call__(self, study: Study, record: Mapping[str, Any]) -> None:
        """Show an event; without a terminal, a line for each trial that ends and now and then one between."""
        if self._live is not None:
            return
        kind, trial = record["kind"], study.trials.get(record.get("trial", ""))
        now = self._clock()
        if kind in _LOUD:
            self._print(_LOUD[kind].format(**record))
        due = now - self._last_line > _LINE_SECONDS
        if trial is not None and kind in ("epoch", "ended") and (trial.is_ended or due):
            self._last_line = now
            self._print(f"{trial_line(trial)}; {self.summary()}{self._told_standing(now)}")

    def _told_standing(self, now: float) -> str:
        """Return how MLflow stands, for the end of a line: now and then, and whenever something has not arrived."""
        words = self._standing()
        if not words or (words.endswith("up to date") and now - self._last_standing < _STANDING_SECONDS):
            return ""
        self._last_standing = now
        return f"; {words}"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for the terminal's size now; the log grows in another thread, so what cannot be drawn now is later."""
        try:
            self._shown = self.render(options.max_width, console.size.height)
        except RuntimeError:  # a dictionary changed its size under this thread
            if self._shown is None:
                return
        assert self._shown is not None
        yield self._shown

    def summary(self) -> str:
        """Return counts, the best value, elapsed and remaining time in one line."""
        best = leading(self._study)
        parts = [
            f"{self._study.num_ended} of {self._study.budget} trials ({counts(self._study)})",
            f"best {best.best.value:.4f} in {with_state(best)}" if best and best.best else "no best",
            self._time(),
        ]
        return ", ".join(parts)

    def _time(self) -> str:
        now = self._clock()
        left = self.seconds_left()
        used, allowed = seconds_used(self._study, now), self._study.seconds_allowed
        of = "" if allowed is None else f" of {clock(allowed)}"
        about = "about" if _epochs(self._study) > self._epochs_before or self._study.finished else "at most"
        known = "time left unknown yet" if left is None else f"{about} {clock(left)} left"
        return f"{clock(used)}{of} used, {known}"

    def seconds_left(self) -> float | None:
        """Estimate from the epochs run since this start, and from what is left of the budgets; None = nothing known."""
        now = self._clock()
        fresh = _epochs(self._study) - self._epochs_before
        pace = (now - self._begun) / fresh if fresh > 0 else None
        return seconds_left(self._study, self._space.base.train.max_epochs, pace, now)

    def render(self, width: int, height: int) -> Group:
        """Return the view, lower than ``height`` lines and no line longer than ``width``."""
        room = height - 1
        head = self._head(width, height)[: max(1, room)]
        room -= len(head)
        rows = rung_rows(self._study, self._space)
        parts: list[Any] = [*head]
        trials = len(self._study.trials)
        wanted = 1 + min(trials, max(_LEAST_TRIALS, _running(self._study)))
        if rows and room >= len(rows) + 1 + wanted:
            parts.append(rung_table(rows))
            room -= len(rows) + 1
        elif rows and room >= 1 + min(wanted, 1 + _LEAST_TRIALS):
            parts.append(_one_line(rung_line(rows)))
            room -= 1
        if room >= 2 and trials:
            parts.append(self._trials(room - 1))
        return Group(*parts)

    def _head(self, width: int, height: int) -> list[Text]:
        study = self._study
        best = leading(study)
        trials = " trials" if width >= _ROOMY[0] else ""
        words = f"best {best.best.value:.4f}  {with_state(best)}  " if best and best.best else "best: none yet"
        words += shown_values(best.values) if best else ""
        most = _MOST_LINES if height >= _ROOMY[1] else 1
        wrapped = textwrap.wrap(words, width, subsequent_indent="  ", max_lines=most, placeholder=" …")
        lines = [
            (f"{study.num_ended} of {study.budget}{trials}: {counts(study)}", ""),
            (f"{self._time()}; {self._device_hours()}", ""),
            *((line, "bold") for line in wrapped),
            (_warnings(study), "yellow"),
            (self._standing(), "dim"),
        ]
        return [_one_line(line, style) for line, style in lines if line]

    def _device_hours(self) -> str:
        used, allowed = device_hours(self._study, self._clock()), self._study.gpu_hours_allowed
        left = "" if allowed is None else f", {max(0.0, allowed - used):.2f} left"
        return f"{used:.2f} {'GPU' if self._study.uses_gpu else 'CPU'} hours used{left}"

    def _trials(self, rows: int) -> Table:
        """Return the trials that run, and above them those that ended last, in so many rows."""
        table = Table(box=None, pad_edge=False, expand=True)
        for column in ("trial", "state", "epoch", "last", "best"):
            table.add_column(column, no_wrap=True, width=max(5, len("completed")) if column == "state" else None)
        table.add_column("values", no_wrap=True, overflow="ellipsis", ratio=1)
        trials = list(self._study.trials.values())
        going = [trial for trial in trials if not trial.is_ended][:rows]
        ended = sorted((trial for trial in trials if trial.is_ended), key=lambda trial: trial.place)
        for trial in [*(ended[-(rows - len(going)) :] if rows > len(going) else []), *going]:
            last = f"{trial.epochs[-1].value:.4f}" if trial.epochs else ""
            best = f"{trial.best.value:.4f}" if trial.best else ""
            epoch = f"{len(trial.epochs)}/{trial.config['train']['max_epochs']}"
            state = state_of(trial)
            table.add_row(
                trial.trial_id, Text(state, _STYLES.get(state, "")), epoch, last, best, Text(shown_values(trial.values))
            )
        return table


def _warnings(study: Study) -> str:
    parts = []
    if study.setbacks:
        kinds = Counter(record["what"] for record in study.setbacks)
        named = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        parts.append(f"attempts that ended badly: {named}; the last: {study.setbacks[-1]['reason']}")
    parts += [f"{host} is put aside: {reason}" for host, reason in study.aside.items()]
    return "; ".join(reversed(parts))


def _one_line(words: str, style: str = "") -> Text:
    return Text(words.replace("\n", " "), style=style, no_wrap=True, overflow="ellipsis")


def _running(study: Study) -> int:
    return sum(not trial.is_ended for trial in list(study.trials.values()))


def _epochs(study: Study) -> int:
    return sum(len(trial.epochs) for trial in list(study.trials.values()))
