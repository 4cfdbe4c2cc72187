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


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield slices of at most ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
