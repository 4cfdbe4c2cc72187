"""What a log says beside what follows from it, value by value."""

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from odmt.tuning.event_log import decode, encode

TOLERANCE = 1e-9
"""Relative; between numbers that other versions of the libraries computed."""
_LIBRARIES = ("optuna", "torch", "numpy")


def version_note(header: Mapping[str, Any]) -> str | None:
    """Return why real numbers cannot be compared exactly, or None: the libraries are those of the study."""
    was = header.get("versions", {})
    other = [
        f"{name} was {was.get(name)}, is {metadata.version(name)}"
        for name in _LIBRARIES
        if was.get(name) != metadata.version(name)
    ]
    return f"real numbers are compared within {TOLERANCE:g}: {', '.join(other)}" if other else None


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as a log would give them back."""
    return decode(encode(fields)[:-1])


def differing(
    recorded: Mapping[str, Any], derived: Mapping[str, Any], *, exact: bool
) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, recorded and derived value of every field of ``derived`` that the record has otherwise."""
    for name, value in plain(derived).items():
        yield from _leaves(name, recorded.get(name), value, exact)


def _leaves(path: str, recorded: Any, derived: Any, exact: bool) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(recorded, Mapping) and isinstance(derived, Mapping):
        for key in [*derived, *(key for key in recorded if key not in derived)]:
            yield from _leaves(f"{path}.{key}", recorded.get(key, _Nothing), derived.get(key, _Nothing), exact)
    elif _is_list(recorded) and _is_list(derived) and len(recorded) == len(derived):
        for index, (left, right) in enumerate(zip(recorded, derived, strict=True)):
            yield from _leaves(f"{path}[{index}]", left, right, exact)
    elif not _equal(recorded, derived, exact):
        yield path, recorded, derived


class _Nothing:
    """Stands for a value that is not there."""


def shown(value: Any) -> str:
    """Return a value for a sentence."""
    text = "nothing" if value is None or value is _Nothing else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _equal(left: Any, right: Any, exact: bool) -> bool:
    if isinstance(left, bool) or isinstance(right, bool) or not _are_numbers(left, right):
        return type(left) is type(right) and bool(left == right)
    return bool(left == right) if exact else math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE**2)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)
