"""Every combination of a small space, trained once to its last epoch: where a replayed search finds its results."""

import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from odmt.errors import DataError
from odmt.home import Home
from odmt.tuning.samplers import grid
from odmt.tuning.space import Space, canonical_json
from odmt.tuning.state import METRIC


class Curve(NamedTuple):
    """One combination's whole run; epoch n stands at position n - 1.

    Attributes:
        values: of the axes.
        ndcg: validation NDCG@10 after each epoch.
        seconds: CPU seconds of each epoch, validation included; with one thread the wall clock of a quiet machine.
    """

    values: Mapping[str, Any]
    ndcg: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """Highest value of the run."""
        return max(self.ndcg)


class Table:
    """All curves of a space, by the values of its axes."""

    def __init__(self, curves: list[Curve]) -> None:
        """Index the curves.

        Raises:
            ValueError: two curves have the same values, or there is none.
        """
        self.curves = curves
        self._by_values = {key_of(curve.values): curve for curve in curves}
        if not curves or len(self._by_values) < len(curves):
            raise ValueError(f"{len(curves)} curves of {len(self._by_values)} combinations make no table")

    def curve(self, values: Mapping[str, Any]) -> Curve:
        """Return the curve at these values.

        Raises:
            KeyError: they were not tabulated.
        """
        return self._by_values[key_of(values)]

    @property
    def best(self) -> float:
        """Highest value in the table."""
        return max(curve.best for curve in self.curves)

    @property
    def epochs(self) -> int:
        """Epochs of all curves together."""
        return sum(len(curve.ndcg) for curve in self.curves)

    @property
    def seconds(self) -> float:
        """Seconds of all curves together."""
        return sum(sum(curve.seconds) for curve in self.curves)


def key_of(values: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal values."""
    return canonical_json(dict(values))


def read_table(path: Path, space: Space) -> Table:
    """Read the curves of every combination of a space.

    Raises:
        DataError: combinations are missing; names the command.
    """
    held = {key_of(entry["values"]): entry for entry in read_lines(path)}
    missing = [values for values in grid(space) if key_of(values) not in held]
    if missing:
        raise DataError(f"{path}: {len(missing)} combinations are not tabulated; first --tabulate")
    entries = [held[key_of(values)] for values in grid(space)]
    return Table([Curve(entry["values"], tuple(entry["ndcg"]), tuple(entry["cpu"])) for entry in entries])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a JSON-lines file; a torn last one is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def tabulate(space: Space, home: Home, path: Path) -> None:
    """Train what is missing in a table, in a shuffled order, so that a slow hour of the machine hits no axis alone.

    One line a combination: ``values``, and of each epoch ``ndcg``, ``wall`` and ``cpu`` (seconds).
    """
    import torch

    from odmt.experiment.arrays import load_arrays

    torch.set_num_threads(1)
    held = read_lines(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in held), encoding="utf-8")
    done = {key_of(entry["values"]) for entry in held}
    left = [values for values in grid(space) if key_of(values) not in done]
    random.Random(0).shuffle(left)
    arrays = load_arrays(home, space.base)
    begun = time.perf_counter()
    for number, values in enumerate(left, start=1):
        entry = train(space, arrays, values)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        minutes = (time.perf_counter() - begun) / 60
        print(
            f"{minutes:5.1f} min  {number:3d} of {len(left)}  {max(entry['ndcg']):.4f}  {sum(entry['cpu']):5.1f} s  "
            f"{json.dumps(values)}",
            flush=True,
        )


def train(space: Space, arrays: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Train one combination to its last epoch."""
    from odmt.experiment.run import training_run

    entry: dict[str, Any] = {"values": dict(values), "ndcg": [], "wall": [], "cpu": []}
    begun = time.process_time()
    for result in training_run(space.config_for(values), arrays, device="cpu"):
        now = time.process_time()
        entry["ndcg"].append(round(result.metrics[METRIC], 6))
        entry["wall"].append(round(result.seconds, 3))
        entry["cpu"].append(round(now - begun, 3))
        begun = now
    return entry
