"""Values as a reader sees them: in the page, the figures and the LaTeX table alike."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from odmt.tuning.axes import Axis

NOTHING = "–"


def shown(value: Any) -> str:
    """Return a plain value in words: four significant digits, ``true``/``false``, a dash for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or NOTHING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items()) or NOTHING
    return str(value)


def axis_range(axis: Axis) -> str:
    """Return the range or the choices of an axis."""
    if axis.kind == "choice":
        return "one of " + ", ".join(map(option, axis.values))
    step = f" in steps of {shown(axis.q)}" if axis.kind == "quniform" else ""
    return f"{shown(axis.low)} to {shown(axis.high)}{step}"


def condition_in_words(axis: Axis) -> str:
    """Return the condition under which an axis exists, empty for one that always does."""
    return " and ".join(f"{path} is {' or '.join(map(option, values))}" for path, values in axis.when.items())


def option(value: Any) -> str:
    """Return one of an axis' choices, where nothing is a choice like any other."""
    return "none" if value is None else shown(value)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values of nested mappings, keys as dotted paths."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def hours(value: float | None) -> str:
    """Return hours in the unit a person would say."""
    if value is None:
        return "not limited"
    seconds = value * 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{value:.2f} h"
