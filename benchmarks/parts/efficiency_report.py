"""From replayed searches to medians, quartiles, ratios, a table and a figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parts.efficiency_replay import Point
from parts.efficiency_table import Table

NEAR = 0.99
"""A search has arrived when it reports so much of the best value in the table."""

TOP = 5
"""The easier goal: as good as so many of the best combinations."""

SHARES = (0.05, 0.1, 0.2, 0.33, 0.5, 1.0)
"""Of the compute of the whole table: where the best value so far is read."""


class Search(NamedTuple):
    """What is kept of one search: every report that was better than all before it, and the last one."""

    steps: tuple[Point, ...]

    @classmethod
    def of(cls, points: Sequence[Point]) -> "Search":
        """Keep what matters of a search's reports."""
        steps: list[Point] = []
        for point in points:
            if not steps or point.value > steps[-1].value:
                steps.append(point)
        return cls((*steps, points[-1]))

    def reaching(self, target: float) -> Point | None:
        """Return the first report at or above a value; None = the search ended without one."""
        return next((step for step in self.steps if step.value >= target), None)

    def best_by(self, seconds: float) -> float:
        """Return the best value that had been reported when so much was spent; 0 before the first."""
        return max((step.value for step in self.steps if step.seconds <= seconds), default=0.0)


def targets(table: Table) -> dict[str, float]:
    """Return the values to be reached, by name."""
    ranked = sorted((curve.best for curve in table.curves), reverse=True)
    return {"near_best": NEAR * ranked[0], "top": ranked[min(TOP, len(ranked)) - 1]}


def summary(searches: Sequence[Search], table: Table) -> dict[str, Any]:
    """Return a method's numbers; what a search never reached counts as infinitely far."""
    found: dict[str, Any] = {"searches": len(searches)}
    for name, target in targets(table).items():
        arrived = [search.reaching(target) for search in searches]
        found[name] = {
            "reached": sum(point is not None for point in arrived),
            "again_hours": round(mean / 3600, 5) if math.isfinite(mean := again(searches, target)) else None,
            "epochs": quartiles([point.epochs if point else math.inf for point in arrived]),
            "hours": quartiles([point.seconds / 3600 if point else math.inf for point in arrived]),
            "trials": quartiles([point.trials if point else math.inf for point in arrived]),
        }
    for share in SHARES:
        values = [search.best_by(share * table.seconds * (1 + 1e-9)) / table.best for search in searches]
        found.setdefault("best_share", {})[f"{share:g}"] = quartiles(values)
    return found


def again(searches: Sequence[Search], target: float) -> float:
    """Return the mean seconds to a value where a search that ends without it is followed by one with another seed."""
    arrived = [search.reaching(target) for search in searches]
    spent = sum((point or search.steps[-1]).seconds for point, search in zip(arrived, searches, strict=True))
    return spent / count if (count := sum(point is not None for point in arrived)) else math.inf


def quartiles(values: Sequence[float]) -> list[float | None]:
    """Return the lower quartile, the median and the upper quartile, each a value that occurred; None = infinite."""
    found = np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75), method="inverted_cdf")
    return [round(float(value), 5) if math.isfinite(value) else None for value in found]


def ratio(one: Sequence[Search], other: Sequence[Search], target: float) -> dict[str, Any]:
    """Return how many times the compute of the second method the first one's median is, in seconds of computing.

    The interval holds 95 % of the ratios of 2,000 pairs of searches' samples drawn with replacement.
    """
    seconds = [
        np.asarray([point.seconds if (point := search.reaching(target)) else math.inf for search in searches])
        for searches in (one, other)
    ]
    medians = [float(np.quantile(values, 0.5, method="inverted_cdf")) for values in seconds]
    rng = np.random.default_rng(0)
    drawn = [
        np.quantile(rng.choice(values, (2000, len(values))), 0.5, axis=1, method="inverted_cdf") for values in seconds
    ]
    if not all(math.isfinite(value) for value in medians):
        return {"ratio": None, "interval": None}
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(drawn[0] / drawn[1], (0.025, 0.975), method="inverted_cdf")
    interval = [round(float(low), 2), round(float(high), 2) if math.isfinite(high) else None]
    return {"ratio": round(medians[0] / medians[1], 2), "interval": interval}


def tell(results: Mapping[str, Mapping[str, Any]], table: Table) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table as Printed

    console = Console(width=118, highlight=False)
    goals = targets(table)
    titles = {
        "near_best": f"to {NEAR:.0%} of the best known validation NDCG@10 ({goals['near_best']:.4f})",
        "top": f"to the {TOP}th best combination's value ({goals['top']:.4f})",
    }
    for goal, title in titles.items():
        printed = Printed(title=f"Compute {title}: median [quartiles]")
        for column in ("method", "reached", "trials begun", "epochs", "CPU hours", "of the table", "mean, again"):
            printed.add_column(column, justify="left" if column == "method" else "right")
        for name, found in results.items():
            numbers = found[goal]
            whole = [None if hours is None else 3600 * hours / table.seconds for hours in numbers["hours"]]
            printed.add_row(
                name,
                f"{numbers['reached']} of {found['searches']}",
                _shown(numbers["trials"], "{:.0f}"),
                _shown(numbers["epochs"], "{:.0f}"),
                _shown(numbers["hours"], "{:.3f}"),
                _shown(whole, "{:.0%}"),
                "never" if numbers["again_hours"] is None else f"{numbers['again_hours']:.3f}",
            )
        console.print(printed)
    printed = Printed(title="Best value so far, as a share of the best known (median [quartiles]), by compute spent")
    printed.add_column("method")
    for share in SHARES:
        printed.add_column(f"{share:.0%}", justify="right")
    for name, found in results.items():
        printed.add_row(name, *(_shown(found["best_share"][f"{share:g}"], "{:.2f}") for share in SHARES))
    console.print(printed)


def _shown(three: Sequence[float | None], form: str) -> str:
    low, middle, high = ("never" if value is None else form.format(value) for value in three)
    return middle if low == middle == high else f"{middle} [{low}, {high}]"


def draw(searches: Mapping[str, Sequence[Search]], table: Table, path: Path) -> None:
    """Draw the best value so far over the compute spent: medians, with the quartiles as bands."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    spent = np.linspace(0, table.seconds, 400)
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for name, of_method in searches.items():
        values = np.array([[search.best_by(seconds) for seconds in spent] for search in of_method])
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
        (line,) = axes.plot(spent / 3600, middle, label=name, drawstyle="steps-post")
        if len(of_method) > 1:
            axes.fill_between(spent / 3600, low, high, alpha=0.12, color=line.get_color(), step="post")
    axes.axhline(NEAR * table.best, color="black", linewidth=0.8, linestyle=":")
    axes.text(0, NEAR * table.best, f" {NEAR:.0%} of the best known", va="bottom", fontsize=8)
    axes.set(xlabel="CPU hours spent by all trials", ylabel="best validation NDCG@10 so far", ylim=(0.02, None))
    axes.legend(loc="lower right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
