"""What the flags of a search mean; their errors name the flag, what was given and what would be right."""

import re

from odmt.errors import ConfigError

_UNITS = {"s": 1 / 3600, "m": 1 / 60, "h": 1.0, "d": 24.0, "": 1.0}


def budget_settings(trials: int | None, time_budget: str | None, max_gpu_hours: str | None) -> list[str]:
    """Return the flags of the budgets as ``key=value`` texts, as ``--set`` takes them; None = not given.

    Raises:
        ConfigError: a budget is no positive number.
    """
    settings = [] if trials is None else [f"budget.trials={trials}"]
    if time_budget is not None:
        settings.append(f"budget.time_hours={hours('--time-budget', time_budget, _UNITS)!r}")
    if max_gpu_hours is not None:
        settings.append(f"budget.max_gpu_hours={hours('--max-gpu-hours', max_gpu_hours, {'': 1.0})!r}")
    return settings


def hours(flag: str, text: str, units: dict[str, float]) -> float:
    """Read a time.

    Raises:
        ConfigError: it is no time, or not above 0.
    """
    found = re.fullmatch(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*([a-z]?)\s*", text)
    if found is None or found[2] not in units:
        right = "a time such as 90m, 8h, 2d, 3600s or 8" if len(units) > 1 else "a number of hours such as 40"
        raise ConfigError(flag, [f"expected {right}, got {text!r}"])
    value = float(found[1]) * units[found[2]]
    if not 0 < value < float("inf"):
        raise ConfigError(flag, [f"{text!r} is not above 0"])
    return value


def warm_names(text: str | None) -> tuple[str, ...]:
    """Return the studies that ``--warm-start`` names.

    Raises:
        ConfigError: a name is empty or is repeated.
    """
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError("--warm-start", [f"expected different studies such as arts,office, got {text!r}"])
    return names
