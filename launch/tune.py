"""Search: run the trials of a space, or go on with a study."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from odmt.commands import Parser, run

if TYPE_CHECKING:
    from odmt.home import Home
    from odmt.tuning.space import Space
    from odmt.tuning.study import StudyView, TrialView

DESCRIPTION = """Search a space for the values with the best validation NDCG@10.

A study is the space's name unless --study says otherwise. The same command goes on with an interrupted study, and only
prints the result of a finished one.

  python launch/tune.py --space demo
  python launch/tune.py --space demo --study demo-long --set train.max_epochs=30
  python launch/tune.py --space demo --trials 40 --extend"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--space", required=True, help="a name under search_spaces/, or a YAML file")
    parser.add_argument("--study", help="name of the study; default: the space's name")
    parser.add_argument("--trials", type=int, help="how many trials; the same as --set budget.trials=N")
    parser.add_argument("--extend", action="store_true", help="allow more trials than the study was begun with")
    parser.add_argument(
        "--where",
        choices=("auto", "local", "attach"),
        default="auto",
        help="auto: the Ray that RAY_ADDRESS names, else a local one; local: a local one; attach: RAY_ADDRESS's",
    )
    parser.add_argument("--quiet", action="store_true", help="no live view, only what matters at the end")
    parser.add_set()
    words = sys.argv[1:] if argv is None else argv
    return run(parser, lambda arguments: body(arguments, words), argv)


def body(arguments: argparse.Namespace, words: list[str]) -> int:
    """Search as the arguments say."""
    import shlex

    from odmt.tuning.space import load_space

    assignments = list(arguments.assignments)
    if arguments.trials is not None:
        assignments.append(f"budget.trials={arguments.trials}")
    space = load_space(arguments.space, assignments)
    name = arguments.study or space.name

    from odmt.errors import InterruptedStudy
    from odmt.home import Home
    from odmt.tuning.driver import Options, run_study

    home = Home.from_environment()
    options = Options(
        command=shlex.join(["python", "launch/tune.py", *words]),
        where=arguments.where,
        extend=arguments.extend,
        quiet=arguments.quiet,
        say=lambda sentence: print(sentence, flush=True),
        make_mirror=lambda header: open_mirror(home, space, name, header),
    )
    before = standing(home, name)
    try:
        study = run_study(space, home, name, options)
    except KeyboardInterrupt:
        raise InterruptedStudy(f"interrupted before the search ran; go on with: {options.command}") from None
    report(home, space, study, before)
    return 0


def open_mirror(home: "Home", space: "Space", name: str, header: Any) -> Any:
    """Connect to MLflow; a server that is away now gets everything later."""
    from odmt.config import dotted_values
    from odmt.errors import ServiceError
    from odmt.home import code_version
    from odmt.tracking.runs import RunMirror

    fixed = {path: value for path, value in dotted_values(space.base).items() if path not in space.axes}
    mirror = RunMirror(
        home,
        experiment=header["dataset"],
        study=name,
        study_id=header["study_id"],
        tags={"odmt.data_digest": header["data_digest"], "odmt.code_version": code_version()},
        params=fixed | {"sampler.name": space.sampler.name, "scheduler.name": space.scheduler.name},
    )
    try:
        mirror.start()
    except ServiceError as error:
        print(f"warning: {error}; the search goes on, and MLflow gets everything once it answers", file=sys.stderr)
    return mirror


def standing(home: "Home", name: str) -> "StudyView | None":
    """Return the study as it stands before this start; None = a new one."""
    from odmt.errors import OdmtError
    from odmt.tuning.study import read_study

    try:
        return read_study(home, name)
    except OdmtError:
        return None


def went_on(before: "StudyView", after: "StudyView") -> str:
    """Say what became of the trials that had ended before this start: kept as they were, or run again."""
    ended = {trial.trial_id: trial for trial in before.trials if trial.state in ("completed", "stopped", "failed")}
    now = {trial.trial_id: trial for trial in after.trials}
    lost = [
        key for key, trial in ended.items() if key not in now or now[key].epochs[: len(trial.epochs)] != trial.epochs
    ]
    repeated = [key for key, trial in ended.items() if key in now and now[key].attempts != trial.attempts]
    resumed = [trial for trial in before.trials if trial.trial_id not in ended]
    return (
        f"went on after {len(ended)} ended trials: lost {len(lost)}, repeated {len(repeated)}, resumed {len(resumed)}"
    )


def report(home: "Home", space: "Space", study: "StudyView", before: "StudyView | None") -> None:
    """Print the last word: counts, the best trial beside the floors, the next command."""
    counts = ", ".join(f"{study.count(state)} {state}" for state in ("completed", "stopped", "failed"))
    exhausted = "; every reachable combination has been tried" if study.exhausted else ""
    print(f"\nstudy {study.name}: {len(study.trials)} trials: {counts}{exhausted}")
    if before is not None and before.trials and not before.finished:
        print(went_on(before, study))
    for trial in study.trials:
        if trial.state == "failed":
            print(f"failed: {trial.trial_id}: {trial.reason}")
    if study.best is None:
        print("no trial reported a usable metric; see the reasons above")
        return
    print_best(home, space, study.best)
    print("next: make ui")
    print(f"      python launch/promote.py {study.name}")


def print_best(home: "Home", space: "Space", best: "TrialView") -> None:
    """Print a trial's values, and its heads beside both floors."""
    from rich.console import Console
    from rich.table import Table

    from odmt.evaluation.metrics import reported_heads
    from odmt.experiment.arrays import load_split, validation_floors

    incumbent = " (the incumbent)" if best.number == 0 else ""
    print(f"best trial {best.trial_id}{incumbent}, epoch {best.best_epoch}, checkpoint {best.best_checkpoint}")
    for path, value in best.values.items():
        print(f"  {path}: {value:.6g}" if isinstance(value, float) else f"  {path}: {value}")
    metrics = dict(best.epochs)[best.best_epoch or 0]
    names = ("hr_at_10", "ndcg_at_10")
    table = Table("validation", *names)
    for head, prefix in reported_heads(metrics, "valid/").items():
        table.add_row(f"{head} head", *(f"{metrics[prefix + name]:.4f}" for name in names))
    data = best.config.data
    floors = validation_floors(load_split(home, data), rank_repeat_targets=data.rank_repeat_targets)
    for name, values in floors.items():
        table.add_row(f"floor: {name}", *(f"{values[metric]:.4f}" for metric in names))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
