"""A section of the configuration, and the checks that sections share."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Section:
    """A group of settings. Subclasses yield their problems as ``key: what is wrong``."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from ()


def at_least(section: Section, bound: float, *names: str) -> Iterator[str]:
    """Yield the named values that are below a bound, or no numbers."""
    for name in names:
        value = getattr(section, name)
        if not value >= bound:
            yield f"{name}: {value} is below {bound}"


def not_finite(section: Section) -> Iterator[str]:
    """Yield the real values that are NaN or infinite."""
    for item in fields(section):
        value = getattr(section, item.name)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{item.name}: {value} is not a finite number"


def dropout_range(value: float) -> Iterator[str]:
    """Yield the problem of a dropout outside [0, 1)."""
    if not 0 <= value < 1:
        yield f"dropout: {value} is not in [0, 1)"
