"""What the quality benchmark trains, and the ledger of what is done."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from odmt.files import write_atomically
from odmt.home import code_version

NDCG, HIT_RATE = "ndcg_at_10", "hr_at_10"
FLOORS = ("popularity", "transitions")


class Job(NamedTuple):
    """One training run."""

    dataset: str
    row: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.dataset}_{self.row.replace(' ', '')}_{self.rate:g}_{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What is trained; the same plan goes on in the same folder."""

    config: dict[str, Any]
    datasets: tuple[str, ...]
    rows: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]

    def searches(self) -> list[Job]:
        """Return the runs that choose the rates."""
        return [
            Job(dataset, row, rate, self.seeds[0])
            for dataset in self.datasets
            for row in self.rows
            for rate in self.rates
        ]

    def repeats(self, rates: dict[tuple[str, str], float]) -> list[Job]:
        """Return the runs at chosen rates, by data set and row, with the other seeds."""
        return [Job(*key, rate, seed) for key, rate in rates.items() for seed in self.seeds[1:]]

    @property
    def num_runs(self) -> int:
        """Training runs in all."""
        return len(self.datasets) * len(self.rows) * (len(self.rates) + len(self.seeds) - 1)

    @property
    def digest(self) -> str:
        """Return what tells this plan from others."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


class Ledger:
    """What is known of the runs, a JSON line each."""

    def __init__(self, path: Path) -> None:
        """Read it; a torn last line, a writer's death, is taken away."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            write_atomically(path, b"".join(lines[:-1]))
            lines.pop()
        self.entries: dict[str, dict[Job, dict[str, Any]]] = {"run": {}, "test": {}}
        for line in lines:
            entry = json.loads(line)
            self.entries[entry["event"]][Job(*(entry[name] for name in Job._fields))] = entry

    def add(self, event: str, job: Job, found: dict[str, Any]) -> None:
        """Write what was found."""
        entry = {"event": event, **job._asdict(), **found, "commit": code_version()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.entries[event][job] = entry

    @property
    def runs(self) -> dict[Job, dict[str, Any]]:
        """Return the finished training runs."""
        return self.entries["run"]

    @property
    def tests(self) -> dict[Job, dict[str, Any]]:
        """Return what the test items said."""
        return self.entries["test"]
