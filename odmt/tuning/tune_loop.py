"""Ray Tune's loop, in which the journal decides and nothing of Tune's own is kept."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from odmt.cluster.storage import writable_folder
from odmt.tuning.resources import placement
from odmt.tuning.watch import Watch

_SWITCH_SECONDS = 0.0005
"""A proposal is made in a thread beside the loop, which must not wait for it any longer than this."""


class Reservation(NamedTuple):
    """What each trial reserves, and how many run at once."""

    cpus: float
    gpus: float
    concurrent: int
    accelerator: str | None = None


def run_loop(watch: Watch, folder: Path, job: Any, reserved: Reservation) -> None:
    """Let Tune run what the journal hands out; whatever it returns, the log is the result.

    Args:
        watch: over the journal's attempts; afterwards it says whether the search had to end.
        folder: of the study.
        job: a ``TrialJob``.
        reserved: by each trial.
    """
    from ray import tune

    from odmt.tuning.search import StudyCallback, StudyScheduler, StudySearch, StudyStopper
    from odmt.tuning.trial import run_trial

    journal = watch.journal
    shutil.rmtree(folder / "scratch", ignore_errors=True)  # of drivers that were killed; this one owns the study
    scratch = Path(tempfile.mkdtemp(prefix="tune-", dir=writable_folder(folder / "scratch")))
    cpus, gpus, concurrent, accelerator = reserved
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, job=job), lambda config: placement(config, cpus, gpus, accelerator)
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=-1,  # attempts are trials to Tune; the searcher says when the study is over
            search_alg=StudySearch(watch),
            scheduler=StudyScheduler(watch),
            max_concurrent_trials=concurrent,
            reuse_actors=journal.space.resources.reuse_workers,
            trial_name_creator=lambda trial: str(trial.config["trial_id"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial_id"]),
        ),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch),
            stop=StudyStopper(watch),
            callbacks=[StudyCallback(watch)],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # another attempt is the journal's decision
            checkpoint_config=tune.CheckpointConfig(),
        ),
    )
    try:
        with _quick_switches():
            tuner.fit()
    except Exception:
        if journal.log.failure is None:
            raise
        journal.stopping.set()  # the log could not be written: its own sentence is told instead of Tune's
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    watch.end()  # not after a second signal: that may have come between a record on disk and what is known here


@contextmanager
def _quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
