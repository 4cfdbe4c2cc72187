"""Plain values on their way to MLflow: finite numbers, names, nesting."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Finite(NamedTuple):
    """Metrics that MLflow can hold, and the names of those that it would distort (it stores inf as 1.8e308)."""

    kept: dict[str, float]
    dropped: list[str]


def split_finite(metrics: Mapping[str, float]) -> Finite:
    """Part the finite numbers from infinities and NaN."""
    kept = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    return Finite(kept, [f"{name} ({value})" for name, value in metrics.items() if name not in kept])


def best_name(name: str) -> str:
    """Return the name under which a metric's best value is logged: the run table shows last values only."""
    return name if name.startswith("best/") else f"best/{name.removeprefix('valid/')}"


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted paths into nested mappings."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into dotted paths; what is flat already stays as it is."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def time_span(seconds: float) -> str:
    """Return a duration in its largest unit or two: ``40 s``, ``2 min``, ``3 h 05 min``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield slices of at most ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
