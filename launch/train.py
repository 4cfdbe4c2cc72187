"""Train one configuration: a space's incumbent, with values set by hand."""

import argparse
import hashlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from odmt.commands import Parser, run

if TYPE_CHECKING:
    from odmt.config import RunConfig
    from odmt.experiment.arrays import TrialArrays
    from odmt.home import Home
    from odmt.tracking.runs import RunMirror
    from odmt.training.checkpoint import CheckpointFolder

DESCRIPTION = """Train one configuration: the space's incumbent values, changed by --set.

The run is logged to MLflow and keeps its checkpoints under ODMT_HOME/studies/<space>-train. The same command goes on
where it was interrupted, and only prints the result of a run that is finished.

  python launch/train.py --space demo
  python launch/train.py --space demo --set train.learning_rate=3e-4 --set distill.weight=0"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--space", required=True, help="a name under search_spaces/, or a YAML file")
    parser.add_argument("--device", help="as torch names it; default: the first visible GPU, else the CPU")
    parser.add_set()
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Train as the arguments say."""
    from odmt.tuning.space import load_space

    # One run has no scheduler, so its epochs need not reach past a rung.
    space = load_space(arguments.space, [*arguments.assignments, "scheduler.name=none"])
    config = space.incumbent_config()

    from odmt.experiment.arrays import arrays_digest, load_arrays
    from odmt.home import Home
    from odmt.training.checkpoint import CheckpointFolder

    home = Home.from_environment()
    digest = arrays_digest(home, config)
    arrays = load_arrays(home, config)
    print(
        f"data set {config.data.dataset}: {arrays.split.num_users} users, {arrays.split.num_items} items, "
        f"digest {digest}"
    )
    run_id = run_name(config, digest)
    study = f"{space.name}-train"
    folder = CheckpointFolder(
        home.study(study) / "trials" / run_id,
        attempt=next_attempt(home, study, run_id),
        every_epochs=config.checkpoint.every_epochs,
    )
    mirror = open_mirror(home, study, config, digest)
    history = train(config, arrays, folder, mirror, run_id, arguments.device)
    mirror.study_ended("completed", {}, now_ms())
    report(history, arrays, config, folder)
    pending = mirror.close()
    if pending:
        print(f"MLflow: {pending} messages could not be sent; the same command sends them", file=sys.stderr)
    return 0


def run_name(config: "RunConfig", data_digest: str) -> str:
    """Name a run by what it computes: equal configurations on equal data are the same run."""
    from odmt.config import to_mapping

    text = json.dumps([to_mapping(config), data_digest], sort_keys=True)
    return "run-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def next_attempt(home: "Home", study: str, run_id: str) -> int:
    """Count this start of a run from what earlier starts saved."""
    from odmt.training.checkpoint import CheckpointFolder

    attempts = [int(name.split("-")[1][1:]) for name in CheckpointFolder(home.study(study) / "trials" / run_id).names()]
    return max(attempts, default=0) + 1


def open_mirror(home: "Home", study: str, config: "RunConfig", digest: str) -> "RunMirror":
    """Connect to MLflow."""
    from odmt.home import code_version
    from odmt.tracking.runs import RunMirror

    mirror = RunMirror(
        home,
        experiment=config.data.dataset,
        study=study,
        study_id=study,
        tags={"odmt.data_digest": digest, "odmt.code_version": code_version()},
        params={"data.dataset": config.data.dataset},
    )
    mirror.start()
    return mirror


def train(
    config: "RunConfig",
    arrays: "TrialArrays",
    folder: "CheckpointFolder",
    mirror: "RunMirror",
    run_id: str,
    device: str | None,
) -> list[dict[str, Any]]:
    """Train to the end, telling MLflow and the screen after every epoch."""
    from odmt.config import dotted_values
    from odmt.errors import OdmtError
    from odmt.experiment.run import SELECTION, training_run

    mirror.trial_started(run_id, 0, dotted_values(config), now_ms())
    history: list[dict[str, Any]] = []
    outcome, reason = "killed", None
    try:
        for result in training_run(config, arrays, checkpoints=folder, device=device):
            history.append({"epoch": result.epoch, "metrics": result.metrics})
            mirror.trial_epoch(run_id, result.epoch, result.metrics | {"seconds": result.seconds}, now_ms())
            left = 0.0 if result.is_last else (config.train.max_epochs - result.epoch) * result.seconds
            print(
                f"epoch {result.epoch:3d} of {config.train.max_epochs}  loss {result.metrics['train/loss']:8.4f}  "
                f"{SELECTION} {result.metrics[SELECTION]:.4f}  {result.seconds:5.1f} s  about {left:.0f} s left",
                flush=True,
            )
        outcome = "completed"
    except OdmtError as error:
        outcome, reason = "failed", str(error)
        raise
    finally:
        best = best_of(history)
        checkpoint = folder.of_epoch(best["epoch"]) if best else None
        mirror.trial_ended(run_id, outcome, best["metrics"] if best else {}, checkpoint, reason, now_ms())
        if outcome != "completed":
            mirror.study_ended("killed", {}, now_ms())
            mirror.close()
    return history


def report(
    history: list[dict[str, Any]], arrays: "TrialArrays", config: "RunConfig", folder: "CheckpointFolder"
) -> None:
    """Print the best epoch's validation metrics beside both floors."""
    from rich.console import Console
    from rich.table import Table

    from odmt.evaluation.metrics import reported_heads
    from odmt.experiment.arrays import validation_floors

    best = best_of(history)
    if best is None:
        return
    names = ("hr_at_10", "ndcg_at_10")
    table = Table("validation", *names, title=f"best epoch {best['epoch']} of {len(history)}")
    for head, prefix in reported_heads(best["metrics"], "valid/").items():
        table.add_row(f"{head} head", *(f"{best['metrics'][prefix + name]:.4f}" for name in names))
    floors = validation_floors(arrays.split, rank_repeat_targets=config.data.rank_repeat_targets)
    for name, metrics in floors.items():
        table.add_row(f"floor: {name}", *(f"{metrics[metric]:.4f}" for metric in names))
    Console().print(table)
    print(f"checkpoint: {folder.of_epoch(best['epoch'])}")
    print("next: make ui")


def best_of(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the entry of the best epoch."""
    from odmt.experiment.run import SELECTION
    from odmt.training.checkpoint import best_epoch_of

    if not history:
        return None
    epoch = best_epoch_of(history, SELECTION)
    return next(entry for entry in history if entry["epoch"] == epoch)


def now_ms() -> int:
    """Return the wall-clock time in milliseconds since 1970."""
    return int(time.time() * 1000)


if __name__ == "__main__":
    sys.exit(main())
