"""One searched setting: its range or choices, and the condition under which it exists."""

import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from odmt.config.loading import unknown_key

KINDS = ("uniform", "loguniform", "int", "logint", "quniform", "choice")
_KEYS = ("type", "low", "high", "q", "values", "grid", "when")
_LISTED = 64  # a whole range up to this size is checked value by value


@dataclass(frozen=True)
class Axis:
    """A dotted path of the run configuration and the values it may take."""

    path: str
    kind: str
    low: float = 0
    high: float = 0
    q: float = 0
    values: tuple[Any, ...] = ()
    grid: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def listed(self) -> tuple[Any, ...] | None:
        """Return every value this axis can take, or None where they are too many to count."""
        if self.kind == "choice":
            return self.values
        step = self.q if self.kind == "quniform" else 1 if self.kind in ("int", "logint") else 0
        if not step or (self.high - self.low) / step + 1 > 100_000:
            return None
        count = round((self.high - self.low) / step) + 1
        return tuple(self._exact(self.low + index * step) for index in range(count))

    def probes(self) -> tuple[Any, ...]:
        """Return the values at which a space is checked: all of a short list, else both ends."""
        listed = self.listed()
        if listed is not None and len(listed) <= _LISTED:
            return listed
        return (self._exact(self.low), self._exact(self.high))

    def grid_values(self) -> tuple[Any, ...] | None:
        """Return the values a grid takes here, or None where a range has no natural ones."""
        return self.grid or self.listed()

    def holds(self, value: Any) -> bool:
        """Say whether the value is one that this axis can take."""
        if self.kind == "choice":
            return any(same(value, option) for option in self.values)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.kind in ("int", "logint"):
            return float(value).is_integer()
        if self.kind == "quniform":
            steps = (value - self.low) / self.q
            return math.isclose(steps, round(steps), abs_tol=1e-8)
        return True

    def exact(self, value: Any) -> Any:
        """Return a value that this axis holds in the type in which it is proposed."""
        if self.kind == "choice":
            return next(option for option in self.values if same(value, option))
        if self.kind in ("int", "logint") or (self.kind == "quniform" and self.is_whole):
            return int(value)
        return self._exact(value) if self.kind == "quniform" else float(value)

    @property
    def is_whole(self) -> bool:
        """Say whether bounds and step are whole numbers."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.q))

    def shown_range(self) -> str:
        """Return the range in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(map(str, self.values))
        step = f" in steps of {self.q}" if self.kind == "quniform" else ""
        return f"in {self.low} to {self.high}{step}"

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values that say everything about the axis."""
        plain: dict[str, Any] = {"type": self.kind}
        if self.kind == "choice":
            plain["values"] = list(self.values)
        else:
            plain |= {"low": self.low, "high": self.high}
        if self.kind == "quniform":
            plain["q"] = self.q
        if self.grid:
            plain["grid"] = list(self.grid)
        if self.when:
            plain["when"] = {path: list(values) for path, values in self.when.items()}
        return plain

    def _exact(self, value: float) -> float:
        return round(value) if self.is_whole and self.kind in ("int", "logint", "quniform") else round(float(value), 12)


def same(left: Any, right: Any) -> bool:
    """Compare two plain values; 1 and 1.0 are the same, 1 and True are not."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def read_axis(path: str, mapping: Any, problems: list[str]) -> Axis | None:
    """Build an axis from its YAML mapping; what is wrong is added to ``problems``."""
    where = f"axes.{path}"
    if not isinstance(mapping, Mapping):
        problems.append(f"{where}: expected a mapping such as {{type: uniform, low: 0, high: 1}}, got {mapping!r}")
        return None
    found = [
        unknown_key(f"{where}.{key}", [f"{where}.{name}" for name in _KEYS]) for key in mapping if key not in _KEYS
    ]
    kind = mapping.get("type")
    if kind not in KINDS:
        got = "nothing" if kind is None else repr(kind)
        found.append(f"{where}.type: expected one of {', '.join(KINDS)}, got {got}")
    else:
        found += _choice_problems(where, mapping) if kind == "choice" else _range_problems(where, kind, mapping)
        found += _list_problems(where, "grid", mapping) if "grid" in mapping else []
    when = _read_when(where, mapping.get("when", {}), found)
    if found:
        problems += found
        return None
    axis = Axis(
        path=path,
        kind=str(kind),
        low=mapping.get("low", 0),
        high=mapping.get("high", 0),
        q=mapping.get("q", 0),
        values=tuple(mapping.get("values", ())),
        grid=tuple(mapping.get("grid", ())),
        when=when,
    )
    outside = [value for value in axis.grid if not axis.holds(value)]
    problems += [f"{where}.grid: {value!r} is not {axis.shown_range()}" for value in outside]
    return axis


def _read_when(where: str, mapping: Any, found: list[str]) -> dict[str, tuple[Any, ...]]:
    if not isinstance(mapping, Mapping):
        found.append(f"{where}.when: expected a mapping of other axes to values, got {mapping!r}")
        return {}
    when = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in mapping.items()}
    found += [f"{where}.when.{key}: is an empty list" for key, values in when.items() if not values]
    return when


def _range_problems(where: str, kind: str, mapping: Mapping[str, Any]) -> Iterator[str]:
    needed = ("low", "high", "q") if kind == "quniform" else ("low", "high")
    allowed = {*needed, "type", "grid", "when"}
    yield from (f"{where}.{key}: {kind} has no {key}" for key in _KEYS if key in mapping and key not in allowed)
    wrong = False
    for name in needed:
        value = mapping.get(name)
        kinds: tuple[type, ...] = (int,) if kind in ("int", "logint") else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(typing.cast(float, value)):
            wrong = True
            got = "nothing" if value is None else repr(value)
            yield f"{where}.{name}: expected {'a whole' if kinds == (int,) else 'a finite'} number, got {got}"
    if wrong:
        return
    low, high = mapping["low"], mapping["high"]
    if low >= high:
        yield f"{where}: low {low} is not below high {high}"
    if kind in ("loguniform", "logint") and low <= 0:
        yield f"{where}.low: {low} is not above 0, which a logarithm needs"
    if kind == "quniform":
        q = mapping["q"]
        if q <= 0:
            yield f"{where}.q: {q} is not above 0"
        elif low < high and not math.isclose((high - low) / q, round((high - low) / q), abs_tol=1e-8):
            yield f"{where}: steps of q {q} from low {low} do not end at high {high}"


def _choice_problems(where: str, mapping: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{where}.{key}: choice has no {key}" for key in ("low", "high", "q", "grid") if key in mapping)
    yield from _list_problems(where, "values", mapping)


def _list_problems(where: str, name: str, mapping: Mapping[str, Any]) -> list[str]:
    values = mapping.get(name)
    if not isinstance(values, list) or not values:
        return [f"{where}.{name}: expected a list with at least one value, got {values!r}"]
    found = [
        f"{where}.{name}: {value!r} is a list or mapping; only single values are possible"
        for value in values
        if isinstance(value, list | dict)
    ]
    found += [
        f"{where}.{name}: {value!r} is repeated"
        for index, value in enumerate(values)
        if any(same(value, earlier) for earlier in values[:index])
    ]
    return found
