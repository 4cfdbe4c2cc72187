"""The scheduler's rungs as they stand: who has been there, what is wanted, who was stopped."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from odmt.tuning.scheduler import rungs
from odmt.tuning.space import Space
from odmt.tuning.state import Study


class RungRow(NamedTuple):
    """One rung of one bracket.

    Attributes:
        bracket: its number; None where there is one only.
        epoch: where trials are compared.
        recorded: trials that have been there with a finite value.
        cutoff: below it the next trial is stopped; None = none has been there.
        stopped: trials that ended here.
    """

    bracket: int | None
    epoch: int
    recorded: int
    cutoff: float | None
    stopped: int


def rung_rows(study: Study, space: Space) -> list[RungRow]:
    """Return all rungs of an ASHA scheduler, brackets after each other; empty for other schedulers."""
    import numpy as np

    config, max_epochs = space.scheduler, space.base.train.max_epochs
    trials = list(study.trials.values())
    rows = []
    for bracket in range(config.brackets if config.name == "asha" else 0):
        for epoch in rungs(config, max_epochs, bracket):
            there = [trial for trial in trials if trial.bracket == bracket and len(trial.epochs) >= epoch]
            values = [trial.epochs[epoch - 1].value for trial in there]
            finite = [value for value in values if math.isfinite(value)]
            cutoff = float(np.percentile(finite, (1 - 1 / config.reduction_factor) * 100)) if finite else None
            stopped = sum(trial.state == "stopped" and len(trial.epochs) == epoch for trial in there)
            rows.append(RungRow(bracket if config.brackets > 1 else None, epoch, len(finite), cutoff, stopped))
    return rows


def rung_table(rows: Sequence[RungRow]) -> Table:
    """Return the rungs as a table of one line each."""
    table = Table(box=None, pad_edge=False)
    brackets = rows[0].bracket is not None
    for name in [*(["bracket"] if brackets else []), "rung", "recorded", "cutoff", "stopped"]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"epoch {row.epoch}", str(row.recorded), _cutoff(row), str(row.stopped)]
        table.add_row(*([str(row.bracket)] if brackets else []), *cells)
    return table


def rung_line(rows: Sequence[RungRow]) -> str:
    """Return the rungs in one line, for a low terminal."""
    parts = []
    for row in rows:
        label = f"{row.bracket}/" if row.bracket is not None else ""
        parts.append(f"{label}{row.epoch}: {row.recorded} there, {row.stopped} stopped, cutoff now {_cutoff(row)}")
    return "rungs " + "; ".join(parts)


def _cutoff(row: RungRow) -> str:
    return "-" if row.cutoff is None else f"{row.cutoff:.4f}"
