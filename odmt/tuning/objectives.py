"""What a search is after: the validation metric, and what else is weighed against it."""

from collections.abc import Mapping
from typing import Any

from odmt.config.loading import unknown_key
from odmt.tuning.trials import METRIC

METRICS = (
    *(f"valid/{name}_at_{depth}" for name in ("ndcg", "hr") for depth in (5, 10, 20)),
    "valid/mrr",
    "cost/parameters",
    "cost/seconds_per_user",
)


def read_objectives(mapping: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    """Return the objectives of a space file, the validation metric first; what is wrong is added to ``problems``."""
    found: dict[str, str] = {METRIC: "max"}
    for name, mode in mapping.items():
        if name not in METRICS:
            problems.append(f"objectives.{unknown_key(name, METRICS)}; there are {', '.join(METRICS)}")
        elif mode not in ("max", "min"):
            problems.append(f"objectives.{name}: expected max or min, got {mode!r}")
        elif name == METRIC and mode == "min":
            problems.append(f"objectives.{name}: is maximised; the best trial is chosen by it")
        else:
            found[name] = mode
    return found
