"""Make the best trial of a study the champion of its data set."""

import argparse
import sys
from typing import TYPE_CHECKING

from odmt.commands import Parser, run

if TYPE_CHECKING:
    from odmt.experiment.sealed_test import SealedTest
    from odmt.home import Home
    from odmt.tracking.promotion import PromotedTrial
    from odmt.tuning.study import StudyView, TrialView

DESCRIPTION = """Make the best trial of a study the champion of its data set.

Validation decides which trial is best. Its checkpoint is measured once on the sealed test split, beside two plain
rankers; the read is written down. Then it is registered as odmt-<dataset>, and the alias champion moves to it.

  python launch/promote.py demo
  python launch/promote.py demo --trial 7"""

METRICS = ("hr_at_5", "hr_at_10", "hr_at_20", "ndcg_at_5", "ndcg_at_10", "ndcg_at_20")
FINISHED = ("completed", "stopped")


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("study", metavar="STUDY", help="name of the study")
    parser.add_argument("--trial", metavar="ID", help="this trial (its number or id) instead of the best one")
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Promote as the arguments say."""
    from odmt.home import Home
    from odmt.tuning.study import read_study

    home = Home.from_environment()
    view = read_study(home, arguments.study)
    trial = chosen(view, arguments.trial)
    check_data(home, view, trial)
    if not view.finished:
        ended = sum(other.state not in ("running", "killed") for other in view.trials)
        print(f"note: study {view.name!r} is not finished: {ended} of {view.budget} trials have ended")

    from odmt.experiment.sealed_test import read_sealed_test
    from odmt.tracking.promotion import ensure_run, log_test, make_candidate
    from odmt.tracking.registry import CHAMPION, register_champion

    print(f"{view.name}: trial {trial.number} ({trial.trial_id}), best epoch {trial.best_epoch}", flush=True)
    run_id = ensure_run(home, trial)
    found = read_sealed_test(
        home, trial.config, trial.checkpoint, study=view.name, study_id=view.study_id, trial_id=trial.trial_id
    )
    show(found, trial)
    log_test(home, run_id, found.metrics, found.floors, found.reads)
    registered = register_champion(home, make_candidate(home, trial, run_id))
    again = " (registered before)" if registered.reused else ""
    former = f"; before it was version {registered.former}, now previous" if registered.former else ""
    print(f"{registered.name} version {registered.version}{again} is {CHAMPION}{former}")
    print(f"next: python launch/recommend.py --model {trial.config.data.dataset} --history {example(home, trial)}")
    return 0


def chosen(view: "StudyView", wanted: str | None) -> "PromotedTrial":
    """Return the trial to promote.

    Raises:
        StudyError: there is no such trial, or it has not finished.
        CheckpointError: its checkpoint is gone.
        SharedFeaturesError: a trial of this study wrote to shared features, so its numbers mean nothing.
    """
    from odmt.errors import CheckpointError, SharedFeaturesError, StudyError
    from odmt.tracking.promotion import PromotedTrial

    if view.tainted:
        raise SharedFeaturesError(f"study {view.name!r} cannot be promoted from: {view.tainted}")
    trial = view.best if wanted is None else named(view, wanted)
    if trial is None:
        raise StudyError(
            f"study {view.name!r} has no finished trial among {len(view.trials)}; "
            f"python launch/tune.py --space {view.space_name} --study {view.name} goes on with it"
        )
    if trial.state not in FINISHED or trial.best_epoch is None:
        raise StudyError(
            f"study {view.name!r}: trial {trial.number} is {trial.state}; promote a completed or stopped one"
        )
    if trial.best_checkpoint is None or not trial.best_checkpoint.is_dir():
        raise CheckpointError(
            f"study {view.name!r}: trial {trial.number} has no checkpoint at {trial.best_checkpoint}; "
            "promote another one with --trial"
        )
    return PromotedTrial(
        study=view.name,
        study_id=view.study_id,
        data_digest=view.data_digest,
        trial_id=trial.trial_id,
        number=trial.number,
        outcome=trial.state,
        config=trial.config,
        values=trial.values,
        epochs=trial.epochs,
        best_epoch=trial.best_epoch,
        checkpoint=trial.best_checkpoint,
    )


def check_data(home: "Home", view: "StudyView", trial: "PromotedTrial") -> None:
    """Make sure that the prepared data are those the study was run on, before the test split is read.

    Raises:
        DataError: they have changed.
    """
    from odmt.errors import DataError
    from odmt.experiment.arrays import arrays_digest

    digest = arrays_digest(home, trial.config)
    if digest not in view.run_digests:
        raise DataError(
            f"data set {trial.config.data.dataset!r} was prepared anew since study {view.name!r}: its digest was "
            f"{', '.join(view.run_digests)} and is {digest}; search again under another --study"
        )


def named(view: "StudyView", wanted: str) -> "TrialView":
    """Return the trial with that number or id.

    Raises:
        StudyError: there is none.
    """
    from odmt.errors import StudyError

    for trial in view.trials:
        if wanted in (trial.trial_id, str(trial.number)):
            return trial
    ids = ", ".join(str(trial.number) for trial in view.trials if trial.state in FINISHED) or "none"
    raise StudyError(f"study {view.name!r} has no trial {wanted!r}; finished are: {ids}")


def show(found: "SealedTest", trial: "PromotedTrial") -> None:
    """Print the champion's heads beside the floors."""
    from rich.console import Console
    from rich.table import Table

    from odmt.evaluation.metrics import reported_heads

    title = f"sealed test of {trial.config.data.dataset}, trial {trial.number}"
    table = Table("test", *METRICS, title=title)
    for head, prefix in reported_heads(found.metrics).items():
        table.add_row(f"{head} head", *(f"{found.metrics[prefix + name]:.4f}" for name in METRICS))
    table.add_section()
    for floor, metrics in found.floors.items():
        table.add_row(f"floor: {floor}", *(f"{metrics[name]:.4f}" for name in METRICS))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    below = [floor for floor, metrics in found.floors.items() if found.metrics["ndcg_at_10"] <= metrics["ndcg_at_10"]]
    if below:
        print(f"warning: the fused head does not beat {' and '.join(below)} in ndcg_at_10")
    read = "not read again; the numbers are those of its earlier read" if found.reused else "read now"
    print(f"the test split was {read}; reads of this data set so far: {found.reads}")


def example(home: "Home", trial: "PromotedTrial") -> str:
    """Return two item ids of the data set, for the next command."""
    from odmt.data.interactions import read_catalogue
    from odmt.experiment.arrays import load_split

    ids = read_catalogue(home.dataset(trial.config.data.dataset)).item_ids
    return ",".join(ids[row] for row in load_split(home, trial.config.data).item_rows[:2])


if __name__ == "__main__":
    sys.exit(main())
