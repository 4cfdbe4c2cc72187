"""The live view of a search: a table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from odmt.tuning.state import Study, Trial

_SHOWN_TRIALS = 12
_FIRST_LINE_SECONDS = 15


class StudyProgress:
    """A listener of the event log that shows how the search goes."""

    def __init__(self, study: Study, *, max_epochs: int, console: Console | None = None) -> None:
        """Prepare the view.

        Args:
            study: the folded log; only read.
            max_epochs: of a trial that completes.
            console: where to; None = standard error.
        """
        self._study = study
        self._max_epochs = max_epochs
        self._console = console or Console(stderr=True)
        self._begun = time.time()
        self._epochs_before = sum(len(trial.epochs) for trial in study.trials.values())
        self._last_line = time.time()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=2, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)

    def __call__(self, study: Study, record: Mapping[str, Any]) -> None:
        """Show an event; without a terminal, a line for each trial that ends and now and then one between."""
        if self._live is not None:
            return
        trial = study.trials.get(record.get("trial", ""))
        due = time.time() - self._last_line > _FIRST_LINE_SECONDS
        if trial is not None and (trial.is_ended or (record["kind"] == "epoch" and due)):
            self._last_line = time.time()
            self._console.print(f"{_line(trial)}; {self.summary()}", highlight=False, markup=False, soft_wrap=True)

    def summary(self) -> str:
        """Return counts, the best value, elapsed and remaining time in one line."""
        study = self._study
        elapsed = f"{clock(time.time() - self._begun)} elapsed"
        left = self.seconds_left()
        best = study.best
        parts = [
            f"{study.num_ended} of {study.budget} trials ({counts(study)})",
            f"best {best.best.value:.4f} ({best.trial_id})"
            if best is not None and best.best is not None
            else "no best",
            elapsed,
            f"about {clock(left)} left" if left is not None else "time left unknown yet",
        ]
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """Estimate from the epochs run since this start; None = none yet."""
        done = sum(len(trial.epochs) for trial in self._study.trials.values())
        fresh = done - self._epochs_before
        if self._study.finished:
            return 0.0
        if fresh < 1:
            return None
        ended = [len(trial.epochs) for trial in self._study.trials.values() if trial.is_ended and trial.epochs]
        per_trial = sum(ended) / len(ended) if ended else float(self._max_epochs)
        unproposed = 0 if self._study.exhausted else self._study.budget - len(self._study.trials)
        remaining = unproposed * per_trial
        remaining += sum(max(1.0, per_trial - len(trial.epochs)) for trial in self._study.interrupted)
        return remaining * (time.time() - self._begun) / fresh

    def render(self) -> Group:
        """Return the table of the trials that run and those that ended last, under the summary."""
        table = Table("trial", "state", "epoch", "last", "best", "values", box=None, pad_edge=False)
        trials = list(self._study.trials.values())
        running = [trial for trial in trials if not trial.is_ended]
        ended = sorted((trial for trial in trials if trial.is_ended), key=lambda trial: trial.ended)
        for trial in [*ended[-max(0, _SHOWN_TRIALS - len(running)) :], *running][-_SHOWN_TRIALS:]:
            last = f"{trial.epochs[-1].value:.4f}" if trial.epochs else ""
            best = f"{trial.best.value:.4f}" if trial.best else ""
            epoch = f"{len(trial.epochs)}/{trial.config['train']['max_epochs']}"
            table.add_row(trial.trial_id, trial.state, epoch, last, best, shown_values(trial.values))
        best_trial = self._study.best
        words = f"best: {best_trial.trial_id}  {shown_values(best_trial.values)}" if best_trial else "best: none yet"
        return Group(self.summary(), words, table)


def counts(study: Study) -> str:
    """Return how many trials are in each state, in words."""
    states = [trial.state for trial in study.trials.values()]
    names = ("completed", "stopped", "failed", "running")
    return ", ".join(f"{states.count(name)} {name}" for name in names if name != "running" or states.count(name))


def shown_values(values: Mapping[str, Any]) -> str:
    """Return a trial's values in one short line, paths without their section."""
    return " ".join(f"{path}={_short(value)}" for path, value in values.items())


def clock(seconds: float) -> str:
    """Return a duration as people say it."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def _line(trial: Trial) -> str:
    value = f", {trial.epochs[-1].value:.4f}" if trial.epochs else ""
    reason = f": {trial.reason}" if trial.reason else ""
    return f"{trial.trial_id} {trial.state} at epoch {len(trial.epochs)}{value}{reason}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
