"""From the quality benchmark's ledger to its table: means, spreads, paired comparisons."""

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from odmt.evaluation.metrics import user_ndcg
from odmt.experiment.methods import FULL_METHOD
from odmt.files import write_atomically
from parts.quality_plan import FLOORS, HIT_RATE, NDCG, Job, Ledger, Plan

RIVALS = ("id", "late")


def summarise(
    plan: Plan, ledger: Ledger, folder: Path, final: Sequence[Job], floors: dict[str, dict[str, dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Return a row's numbers by its name, floors first."""
    table: dict[str, dict[str, Any]] = {}
    for name in FLOORS:
        of_sets = [floors[dataset][name] for dataset in plan.datasets]
        table[name] = _means([found["valid"] for found in of_sets], [found["test"] for found in of_sets])
    for row in plan.rows:
        jobs = [job for job in final if job.row == row]
        table[row] = _means([ledger.runs[job]["valid"] for job in jobs], [ledger.tests[job]["test"] for job in jobs])
        first = [job for job in jobs if job.seed == plan.seeds[0]]
        table[row] |= {
            "rates": [job.rate for job in first],
            "best_epoch": statistics.mean(ledger.runs[job]["best_epoch"] for job in jobs),
            "seconds": statistics.mean(ledger.runs[job]["seconds"] for job in jobs),
            "runs": len(jobs),
        }
        if row != FULL_METHOD:
            table[row]["lead"] = _lead(plan, ledger, folder, jobs, final)
    return table


def _means(valid: Sequence[dict[str, float]], test: Sequence[dict[str, float]]) -> dict[str, Any]:
    columns = {f"{split}/{name}": [found[name] for found in of] for split, of in (("valid", valid), ("test", test))
               for name in (NDCG, HIT_RATE)}  # fmt: skip
    return {name: {"mean": statistics.mean(values), "sd": _deviation(values)} for name, values in columns.items()}


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _lead(plan: Plan, ledger: Ledger, folder: Path, jobs: Sequence[Job], final: Sequence[Job]) -> dict[str, Any]:
    """Compare the full method with a row on the test items, pair by pair."""
    full = {(job.dataset, job.seed): job for job in final if job.row == FULL_METHOD}
    pairs = [(full[job.dataset, job.seed], job) for job in jobs]
    differences = [ledger.tests[ours]["test"][NDCG] - ledger.tests[theirs]["test"][NDCG] for ours, theirs in pairs]
    deviation = _deviation(differences)
    squares = []
    for dataset in plan.datasets:
        gains = [_user_ndcg(folder / ours.name) - _user_ndcg(folder / theirs.name)
                 for ours, theirs in pairs if ours.dataset == dataset]  # fmt: skip
        by_user = np.mean(gains, axis=0)
        squares.append(float(by_user.var(ddof=1)) / len(by_user))
    return {
        "mean": statistics.mean(differences),
        "standard_error": None if deviation is None else deviation / math.sqrt(len(differences)),
        "standard_error_over_users": math.sqrt(sum(squares)) / len(plan.datasets),
        "pairs_ahead": sum(difference > 0 for difference in differences),
        "pairs": len(differences),
        "differences": differences,
    }


def _user_ndcg(folder: Path) -> np.ndarray:
    return user_ndcg(np.load(folder / "test_ranks.npy"), 10)


COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("rates", lambda row: " ".join(f"{rate:g}" for rate in row.get("rates", []))),
    ("valid NDCG@10", lambda row: _spread(row[f"valid/{NDCG}"])),
    ("valid HR@10", lambda row: _spread(row[f"valid/{HIT_RATE}"])),
    ("test NDCG@10", lambda row: _spread(row[f"test/{NDCG}"])),
    ("test HR@10", lambda row: _spread(row[f"test/{HIT_RATE}"])),
    ("odmt's lead, SE pairs, SE users", lambda row: _lead_words(row.get("lead"))),
    ("pairs ahead", lambda row: f"{row['lead']['pairs_ahead']} of {row['lead']['pairs']}" if "lead" in row else ""),
    ("best epoch", lambda row: f"{row['best_epoch']:.0f}" if "best_epoch" in row else ""),
    ("s a run", lambda row: f"{row['seconds']:.0f}" if "seconds" in row else ""),
)


def _spread(found: dict[str, Any]) -> str:
    return f"{found['mean']:.4f}" + ("" if found["sd"] is None else f" ± {found['sd']:.4f}")


def _lead_words(lead: dict[str, Any] | None) -> str:
    if lead is None:
        return ""
    pairs = "-" if lead["standard_error"] is None else f"{lead['standard_error']:.4f}"
    return f"{lead['mean']:+.4f}, {pairs}, {lead['standard_error_over_users']:.4f}"


def tell(
    table: dict[str, dict[str, Any]], target: Path, arguments: argparse.Namespace, plan: Plan, ledger: Ledger
) -> None:
    """Show the table, write it as Markdown and JSON, and end with the JSON line."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{arguments.title}: means and standard deviations over {_runs_words(plan)}")
    for title in ("", *(title for title, _ in COLUMNS)):
        shown.add_column(title, no_wrap=True)
    for name, row in table.items():
        shown.add_row(name, *(words(row) for _, words in COLUMNS))
    Console(width=max(200, Console().width)).print(shown)
    rivals = [table[name][f"test/{NDCG}"]["mean"] for name in RIVALS if name in table]
    ratio = table[FULL_METHOD][f"test/{NDCG}"]["mean"] / max(rivals) if rivals else None
    head = {
        "benchmark": "quality",
        "dataset": arguments.title,
        "command": f"python benchmarks/quality.py {shlex.join(sys.argv[1:])}".rstrip(),
        "commit": ", ".join(sorted({entry["commit"] for entry in ledger.runs.values()})),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), {arguments.workers} processes with one thread",
        "plan": {key: value for key, value in asdict(plan).items() if key != "config"},
        "epochs": plan.config["train"]["max_epochs"],
        "patience": plan.config["train"]["early_stopping_patience"],
        "runs": plan.num_runs,
        "run_minutes": sum(entry["seconds"] for entry in ledger.runs.values()) / 60,
        "ratio": ratio,
    }
    whole = head | {"config": plan.config, "rows": table, "all_runs": list(_all_runs(ledger))}
    write_atomically(target / f"{arguments.title}.json", json.dumps(whole, indent=1).encode())
    write_atomically(target / f"{arguments.title}.md", _markdown(head, table).encode())
    print(f"written: {target}/{arguments.title}.md and .json")
    print(json.dumps(head | {"test_ndcg_at_10": {name: round(row[f"test/{NDCG}"]["mean"], 5)
                                                 for name, row in table.items()}}))  # fmt: skip


def _runs_words(plan: Plan) -> str:
    sets, seeds = len(plan.datasets), len(plan.seeds)
    of_sets = f"{sets} generator seeds" if sets > 1 else "one data set"
    return f"{of_sets}, {f'{seeds} training seeds each' if seeds > 1 else 'one training seed'}"


def _all_runs(ledger: Ledger) -> Iterator[dict[str, Any]]:
    for job, entry in ledger.runs.items():
        yield entry | {"test": ledger.tests[job]["test"] if job in ledger.tests else None}


def _markdown(head: dict[str, Any], table: dict[str, dict[str, Any]]) -> str:
    facts = ("command", "commit", "hardware", "epochs", "patience", "runs", "run_minutes", "ratio")
    lines = [
        f"{name}: {head[name]:.4g}" if isinstance(head[name], float) else f"{name}: {head[name]}" for name in facts
    ]
    titles = ["", *(title for title, _ in COLUMNS)]
    rows = [[name, *(words(row) for _, words in COLUMNS)] for name, row in table.items()]
    grid = [titles, ["---"] * len(titles), *rows]
    return "\n".join([*lines, "", *(f"| {' | '.join(cells)} |" for cells in grid), ""])
