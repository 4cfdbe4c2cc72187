"""The journal in the shapes that Ray Tune knows: a searcher, a scheduler and a stopper."""

from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import Stopper

from odmt.tuning.journal import LATER, Journal
from odmt.tuning.state import CONTINUE


class Shell:
    """What Tune's snapshots hold in place of objects that own a file: nothing."""


class StudySearch(OptunaSearch):
    """Hands the journal's assignments to Tune.

    Ray's OptunaSearch tells Optuna COMPLETE for stopped trials and leaves NaN trials RUNNING for ever. Here nothing is
    told to a living study: each proposal rebuilds one from the log, stopped = PRUNED, failed or non-finite = FAIL.
    """

    def __init__(self, journal: Journal) -> None:
        """Search as the journal says."""
        super().__init__(mode="max")
        self._journal = journal
        self._own_id: dict[str, str] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept whatever Tune says; the space is the journal's."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next assignment as a trial's configuration, or FINISHED."""
        if self._journal.stopping.is_set():
            return Searcher.FINISHED
        assignment = self._journal.try_assignment()
        if assignment is None:
            return Searcher.FINISHED
        if assignment == LATER:
            return None
        self._own_id[trial_id] = assignment.trial_id
        return {
            "trial_id": assignment.trial_id,
            "number": assignment.number,
            "attempt": assignment.attempt,
            "config": dict(assignment.config),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler has recorded the result."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record a trial that died without a word."""
        if error and trial_id in self._own_id:
            self._journal.setback(self._own_id[trial_id], "died", "its worker process died")

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the event log is the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shell, ()


class StudyScheduler(FIFOScheduler):
    """Gives the journal's verdicts; a report is in the log before its worker goes on."""

    def __init__(self, journal: Journal) -> None:
        """Judge as the journal says."""
        super().__init__()
        self._journal = journal

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record the result; STOP whatever its verdict ended."""
        decided = self._journal.report(trial.config["trial_id"], unflattened(result))
        going_on = decided == CONTINUE and not self._journal.stopping.is_set()
        return str(TrialScheduler.CONTINUE if going_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Record a worker that died; another attempt at it is an assignment of its own."""
        lines = str(trial.get_error() or "").strip().splitlines()
        reason = f"its worker process died; {lines[-1]}" if lines else "its worker process died"
        self._journal.setback(trial.config["trial_id"], "died", reason)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shell, ()


def unflattened(result: dict[str, Any]) -> dict[str, Any]:
    """Undo what Tune does to the reported metrics: ``metrics/valid/x`` back to a mapping of its own."""
    prefix = "metrics/"
    metrics = {name.removeprefix(prefix): value for name, value in result.items() if name.startswith(prefix)}
    return {**result, "metrics": metrics}


class StudyStopper(Stopper):
    """Ends the search when the journal says so."""

    def __init__(self, journal: Journal) -> None:
        """Stop when the journal says so."""
        self._journal = journal

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Leave single trials to the scheduler."""
        return False

    def stop_all(self) -> bool:
        """Say whether a signal or a tainted study ends the search."""
        return self._journal.stopping.is_set()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shell, ()
