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
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from parts.quality_plan import FLOORS, HIT_RATE, NDCG, Job, Ledger, Plan
from parts.quality_report import summarise, tell

from odmt.commands import Parser, run
from odmt.config import RunConfig, replace_values, to_mapping
from odmt.errors import ConfigError, DataError
from odmt.experiment.methods import FULL_METHOD, METHODS, with_method
from odmt.files import write_atomically
from odmt.home import CHECKOUT, Home

LEARNING_RATES = (1e-3, 2e-3, 4e-3)
GENERATOR_SEEDS = (7, 8, 9)
EPOCHS, PATIENCE = 30, 8
DISTILLATION = {"distill.weight": 0.3, "distill.temperature": 0.3}
"""For all that distil: the weakest that the demo's space offers. At weight 1 and temperature 0.5, its incumbent, the
full method fell behind from the middle of the ramp on (validation, generator seed 7)."""
LEDGER = "runs.jsonl"


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


if __name__ == "__main__":
    sys.exit(main())
