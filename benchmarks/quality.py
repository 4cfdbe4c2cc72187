"""The full method beside its ablations, the baselines and two floors: the same data and the same budget for each.

Data: the generated demo set under several generator seeds, or with ``--source`` a folder in the authors' Amazon layout.
Settings: the incumbent of a search space, for every method alike; a method differs in nothing but its values in
``odmt/experiment/methods.py``. Budget: on each data set a method is trained at the same learning rates for as many
epochs, stopped early by the same rule, with the first training seed; the rate of the highest validation NDCG@10 is
trained with the other seeds too. A run counts with its best epoch on validation. Nobody reads the test items before all
runs are done and all rates chosen; then each run that counts is measured on them once.

Spreads are standard deviations over the runs of a row. Rows are compared with the full method in pairs of equal data
set and training seed: mean difference, its standard error over the pairs, and the standard error over users, of the
same difference averaged over training seeds first. Where there is one data set the first of the two knows nothing but
the training seeds. The runs are written down one by one: the same command goes on after an interruption. The last line
is one JSON object; its ratio is the test NDCG@10 of the full method over that of the better of ID only and late fusion.

  python benchmarks/quality.py
  python benchmarks/quality.py --dataset chess --source DIR --rows 'id,late,odmt -kd,odmt'
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import platform
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odmt.commands import Parser, run
from odmt.config import RunConfig, replace_values, to_mapping
from odmt.errors import ConfigError, DataError
from odmt.experiment.methods import FULL_METHOD, METHODS, with_method
from odmt.files import write_atomically
from odmt.home import CHECKOUT, Home, code_version

LEARNING_RATES = (1e-3, 2e-3, 4e-3)
GENERATOR_SEEDS = (7, 8, 9)
EPOCHS, PATIENCE = 30, 8
DISTILLATION = {"distill.weight": 0.3, "distill.temperature": 0.3}
"""For all that distil: the weakest that the demo's space offers. At weight 1 and temperature 0.5, its incumbent, the
full method fell behind from the middle of the ramp on (validation, generator seed 7)."""
FLOORS = ("popularity", "transitions")
RIVALS = ("id", "late")
NDCG, HIT_RATE = "ndcg_at_10", "hr_at_10"
LEDGER = "runs.jsonl"


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


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(__doc__ or "")
    parser.add_argument("--dataset", default="demo", metavar="NAME", help="demo, or what to call the --source")
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder in the authors' Amazon layout")
    parser.add_argument("--generators", type=int, default=3, choices=(1, 2, 3), help="generator seeds of the demo set")
    parser.add_argument("--items", type=int, default=500, help="of the demo set; its users stay 2,000")
    parser.add_argument("--rows", default=",".join(METHODS), help="methods, joined by commas; all by default")
    parser.add_argument("--rates", default=",".join(f"{rate:g}" for rate in LEARNING_RATES), help="learning rates")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every run")
    parser.add_argument("--patience", type=int, default=PATIENCE, help="epochs without a better one that end a run")
    parser.add_argument("--space", default="demo", help="space whose incumbent holds all other settings")
    parser.add_argument("--minutes", type=float, default=60.0, help="refuse a plan that may take longer")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--only-plan", action="store_true", help="say how long it may take, and stop")
    parser.add_argument("--work", type=Path, metavar="DIR", help="data and runs; default: quality/ under ODMT_HOME")
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: benchmarks/results/<date>_quality/")
    parser.add_set()
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Prepare, train, choose, test, tell."""
    work = (arguments.work or Home.from_environment().root / "quality").absolute()
    home = Home(work / "home")
    plan = make_plan(arguments)
    for name in plan.datasets:
        prepare_data(home, name, arguments.source, plan)
    folder = work / plan.digest
    write_atomically(folder / "plan.json", json.dumps(asdict(plan), indent=1).encode())
    ledger = Ledger(folder / LEDGER)
    with workers(arguments.workers) as pool:
        minutes = estimate(pool, home, plan, ledger, arguments.workers)
        print(f"{plan.num_runs} runs, {len(ledger.runs)} of them done; at most {minutes:.0f} min more", flush=True)
        if arguments.only_plan:
            return 0
        if minutes > arguments.minutes:
            problem = f"the plan may take {minutes:.0f} min; take fewer rows, seeds or epochs, or allow more"
            raise ConfigError("--minutes", [problem])
        train_all(pool, home, plan, ledger, folder, plan.searches())
        rates = chosen_rates(plan, ledger)
        train_all(pool, home, plan, ledger, folder, plan.repeats(rates))
    final = [Job(*key, rate, seed) for key, rate in rates.items() for seed in plan.seeds]
    floors = test_all(home, plan, ledger, folder, final)
    summary = summarise(plan, ledger, folder, final, floors)
    arguments.title = f"demo-{arguments.items}" if arguments.source is None else arguments.dataset
    target = arguments.results or CHECKOUT / "benchmarks" / "results" / f"{date.today()}_quality"
    tell(summary, target, arguments, plan, ledger)
    return 0


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Check the arguments together.

    Raises:
        ConfigError: they do not fit each other.
    """
    from odmt.tuning.space import load_space

    if (arguments.dataset == "demo") != (arguments.source is None):
        raise ConfigError("--dataset", ["a --source needs a name of its own, and a name other than demo a --source"])
    demo = [f"demo-{seed}-{arguments.items}" for seed in GENERATOR_SEEDS[: arguments.generators]]
    rows = tuple(name.strip() for name in arguments.rows.split(","))
    if FULL_METHOD not in rows or len(set(rows)) < len(rows):
        raise ConfigError("--rows", [f"every row once, {FULL_METHOD!r} among them, which the others are compared with"])
    if arguments.seeds < 1 or arguments.workers < 1:
        raise ConfigError("--seeds, --workers", ["at least 1 each"])
    try:
        rates = tuple(float(rate) for rate in arguments.rates.split(","))
    except ValueError as error:
        raise ConfigError("--rates", [str(error)]) from error
    values = {"train.max_epochs": arguments.epochs, "train.early_stopping_patience": arguments.patience}
    assignments = [f"{key}={value}" for key, value in DISTILLATION.items() if key not in _keys(arguments.assignments)]
    space = load_space(arguments.space, [*assignments, *arguments.assignments])
    config = replace_values(space.incumbent_config(), values, "--epochs, --patience")
    for row in rows:
        with_method(config, row)
    seeds = tuple(range(1, arguments.seeds + 1))
    datasets = tuple(demo) if arguments.source is None else (arguments.dataset,)
    return Plan(to_mapping(config), datasets, rows, rates, seeds)


def _keys(assignments: Sequence[str]) -> set[str]:
    return {text.partition("=")[0] for text in assignments}


def prepare_data(home: Home, name: str, source: Path | None, plan: Plan) -> None:
    """Make a data set ready with the tiny encoders; quick where it is."""
    from odmt.data import demo
    from odmt.experiment.prepare import PreparePlan, prepare

    if source is None:
        source = home.dataset(name) / "source"
        if not source.is_dir():
            seed, items = map(int, name.split("-")[1:])
            demo.generate(source, num_items=items, seed=seed)
    features = job_config(plan, Job(name, FULL_METHOD, plan.rates[0], 1)).features
    encoders: dict[str, Any] = {"text_encoders": (features.text,), "image_encoders": (features.image,)}
    prepare(home, PreparePlan(dataset=name, source=source, tiny_encoders=True, **encoders))


def job_config(plan: Plan, job: Job) -> RunConfig:
    """Return a run's configuration."""
    from odmt.config import from_mapping

    values = {"data.dataset": job.dataset, "train.learning_rate": job.rate, "train.seed": job.seed}
    return with_method(replace_values(from_mapping(RunConfig, plan.config, "plan"), values, job.name), job.row)


def workers(count: int) -> ProcessPoolExecutor:
    """Start processes with one thread each."""
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")  # read by the processes when torch loads
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=one_thread)


def one_thread() -> None:
    """Keep this process on one core."""
    import torch

    torch.set_num_threads(1)


@lru_cache(maxsize=4)
def arrays_of(root: Path, config: RunConfig) -> Any:
    from odmt.experiment.arrays import load_arrays

    return load_arrays(Home(root), config)


def arrays_for(home: Home, plan: Plan, dataset: str) -> Any:
    """Load a data set once a process: every method reads the same."""
    return arrays_of(home.root, job_config(plan, Job(dataset, FULL_METHOD, plan.rates[0], 1)))


def train_one(home: Home, plan: Plan, job: Job, folder: Path) -> dict[str, Any]:
    """Train, in a worker; keep the best epoch's checkpoint alone."""
    from odmt.experiment.run import SELECTION, training_run
    from odmt.training.checkpoint import CheckpointFolder

    config = job_config(plan, job)
    checkpoints = CheckpointFolder(folder, every_epochs=config.train.max_epochs)
    arrays = arrays_for(home, plan, job.dataset)
    results = list(training_run(config, arrays, checkpoints=checkpoints, device="cpu"))
    best = max(results, key=lambda result: (result.metrics[SELECTION], -result.epoch))
    kept = checkpoints.of_epoch(best.epoch)
    for name in checkpoints.names():
        if kept is None or name != kept.name:
            shutil.rmtree(folder / name)
    return {
        "epochs": len(results),
        "best_epoch": best.epoch,
        "valid": {name: best.metrics[f"valid/{name}"] for name in (NDCG, HIT_RATE)},
        "seconds": sum(result.seconds for result in results),
        "curve": [round(result.metrics[SELECTION], 5) for result in results],
    }


def seconds_an_epoch(home: Home, plan: Plan, row: str) -> float:
    """Time a row's second epoch on the first data set, in a worker."""
    from odmt.experiment.run import training_run

    config = job_config(plan, Job(plan.datasets[0], row, plan.rates[0], 1))
    epochs = training_run(config, arrays_for(home, plan, plan.datasets[0]), device="cpu")
    next(epochs)
    return next(epochs).seconds if config.train.max_epochs > 1 else 0.0


def estimate(pool: ProcessPoolExecutor, home: Home, plan: Plan, ledger: Ledger, num_workers: int) -> float:
    """Return the most minutes that the runs still to be done may take, were none stopped early."""
    each = plan.num_runs // len(plan.rows)
    left = {row: each - sum(job.row == row for job in ledger.runs) for row in plan.rows}
    timed = {row: pool.submit(seconds_an_epoch, home, plan, row) for row in plan.rows if left[row]}
    total = 0.0
    for row, future in timed.items():
        print(f"  {row:<14}{future.result():6.2f} s an epoch, {left[row]:3d} of {each} runs to do", flush=True)
        total += future.result() * plan.config["train"]["max_epochs"] * left[row]
    return total / num_workers / 60


def train_all(
    pool: ProcessPoolExecutor, home: Home, plan: Plan, ledger: Ledger, folder: Path, jobs: Sequence[Job]
) -> None:
    """Train what the ledger does not know yet; the longest first, so that no worker waits at the end."""
    missing = sorted((job for job in jobs if job not in ledger.runs), key=lambda job: plan.rows.index(job.row))[::-1]
    started = time.perf_counter()
    futures = {pool.submit(train_one, home, plan, job, folder / job.name): job for job in missing}
    try:
        for number, future in enumerate(as_completed(futures), start=1):
            job, found = futures[future], future.result()
            ledger.add("run", job, found)
            minutes = (time.perf_counter() - started) / 60
            print(
                f"{minutes:5.1f} min  {number:3d} of {len(missing)}  {job.name:<34} valid {found['valid'][NDCG]:.4f} "
                f"in epoch {found['best_epoch']:2d} of {found['epochs']:2d}, {found['seconds']:5.1f} s",
                flush=True,
            )
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def chosen_rates(plan: Plan, ledger: Ledger) -> dict[tuple[str, str], float]:
    """Return the rate of the highest validation NDCG@10 with the first seed, by data set and row."""
    best: dict[tuple[str, str], Job] = {}
    for job in plan.searches():
        key = (job.dataset, job.row)
        if key not in best or ledger.runs[job]["valid"][NDCG] > ledger.runs[best[key]]["valid"][NDCG]:
            best[key] = job
    return {key: job.rate for key, job in best.items()}


def test_all(
    home: Home, plan: Plan, ledger: Ledger, folder: Path, final: Sequence[Job]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Measure the runs that count on the test items, once; return the floors by data set and name.

    Raises:
        DataError: a run has no checkpoint.
    """
    from odmt.experiment.arrays import load_full_split, validation_floors
    from odmt.experiment.build import evaluate_model, load_model
    from odmt.experiment.sealed_test import sealed_floors, sealed_targets

    if any(job not in ledger.runs for job in final):
        raise DataError("the test items are for when all runs are done")
    one_thread()
    floors = {}
    for dataset in plan.datasets:
        arrays = arrays_for(home, plan, dataset)
        data = job_config(plan, Job(dataset, FULL_METHOD, plan.rates[0], 1)).data
        full = load_full_split(home, data)
        targets = sealed_targets(full)
        repeats = {"rank_repeat_targets": data.rank_repeat_targets}
        valid, test = validation_floors(arrays.split, **repeats), sealed_floors(full, targets, **repeats)
        floors[dataset] = {name: {"valid": valid[name], "test": test[name]} for name in FLOORS}
        for job in final:
            if job.dataset != dataset or job in ledger.tests:
                continue
            checkpoints = sorted(path for path in (folder / job.name).glob("e*") if path.is_dir())
            if not checkpoints:
                raise DataError(f"{folder / job.name}: the run's checkpoint is gone; delete {folder} and start again")
            config = job_config(plan, job)
            found = evaluate_model(load_model(config, arrays, checkpoints[-1]), config, arrays, targets)
            np.save(folder / job.name / "test_ranks.npy", found.ranks["fused"])
            ledger.add("test", job, {"test": {name: found.metrics[name] for name in (NDCG, HIT_RATE)}})
    return floors


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
    ranks = np.load(folder / "test_ranks.npy")
    return np.where((ranks >= 1) & (ranks <= 10), 1.0 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0)


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


if __name__ == "__main__":
    sys.exit(main())
