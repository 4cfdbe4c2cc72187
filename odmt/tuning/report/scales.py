"""Axes of a space as axes of a figure: where a value stands, and what is written beside it."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from odmt.tuning.axes import Axis, same
from odmt.tuning.report.words import option

_LONGEST = 14
"""Characters of a tick's label."""


class Ticks(NamedTuple):
    """Positions on a figure's axis, and the labels as plain text."""

    at: list[float]
    labels: list[str]


def plain(text: str) -> str:
    """Return user text for a figure: plotly reads a little HTML, so ``<b>`` must not mean bold."""
    return escape(text, quote=False)


def is_log(axis: Axis) -> bool:
    """Say whether an axis is searched on a logarithmic scale."""
    return axis.kind in ("loguniform", "logint")


def position(axis: Axis, value: Any) -> float:
    """Return where a value stands: its index among choices, its decimal logarithm, or itself."""
    if axis.kind == "choice":
        return float(next(index for index, other in enumerate(axis.values) if same(other, value)))
    return math.log10(value) if is_log(axis) else float(value)


def bounds(axis: Axis) -> tuple[float, float]:
    """Return the positions of the lowest and the highest value."""
    if axis.kind == "choice":
        return 0.0, float(len(axis.values) - 1)
    return position(axis, axis.low), position(axis, axis.high)


def ticks(axis: Axis, most: int = 5) -> Ticks:
    """Return ticks for an axis: every choice, both ends of a range and round numbers between."""
    if axis.kind == "choice":
        return Ticks([float(index) for index in range(len(axis.values))], [_label(value) for value in axis.values])
    listed = axis.listed()
    values: Sequence[Any] = listed if listed is not None and len(listed) <= most else _between(axis, most)
    return Ticks([position(axis, value) for value in values], [_label(value) for value in values])


def _between(axis: Axis, most: int) -> list[float]:
    low, high = bounds(axis)
    steps = [low + (high - low) * index / (most - 1) for index in range(most)]
    values = [float(f"{10**step if is_log(axis) else step:.2g}") for step in steps]
    inner = [value for value in values[1:-1] if axis.low < value < axis.high]
    step = axis.q if axis.kind == "quniform" else 1 if axis.kind in ("int", "logint") else 0
    if step:
        inner = [axis.low + step * round((value - axis.low) / step) for value in inner]
    return list(dict.fromkeys([float(axis.low), *map(float, inner), float(axis.high)]))


def _label(value: Any) -> str:
    text = option(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 + 1 :]}"
