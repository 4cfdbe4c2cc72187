"""The journal in the shapes that Ray Tune knows: a searcher, a scheduler, a stopper and a callback."""

import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import Stopper

from odmt.cluster.nodes import alive_nodes
from odmt.tuning.journal import LATER
from odmt.tuning.watch import Watch

_IDLE_SECONDS = 0.5
_POLL_SECONDS = 0.002


class Shell:
    """What Tune's snapshots hold in place of objects that own a file: nothing."""


class StudySearch(OptunaSearch):
    """Hands the journal's assignments to Tune.

    Ray's OptunaSearch tells Optuna COMPLETE for stopped trials and leaves NaN trials RUNNING for ever. Here nothing is
    told to a living study: each proposal rebuilds one from the log, stopped = PRUNED, failed or non-finite = FAIL.
    """

    def __init__(self, watch: Watch) -> None:
        """Search as the journal says."""
        super().__init__(mode="max")
        self._watch = watch

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept whatever Tune says; the space is the journal's."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next assignment as a trial's configuration, or FINISHED."""
        begun = time.monotonic()
        while True:
            with self._watch.measured():
                assignment = self._watch.hand_out(trial_id)
            # Where nothing runs, Tune would sleep for a second and then ask again.
            if assignment != LATER or not self._watch.is_idle or time.monotonic() - begun > _IDLE_SECONDS:
                break
            time.sleep(_POLL_SECONDS)
        if assignment is None:
            return Searcher.FINISHED
        if isinstance(assignment, str):
            return None
        aside = self._watch.journal.log.study.aside
        return {
            "trial_id": assignment.trial_id,
            "number": assignment.number,
            "attempt": assignment.attempt,
            "config": dict(assignment.config),
            "avoid": [node.node_id for node in alive_nodes() if node.host in aside] if aside else [],
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler has recorded the result."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record a trial that ended without a verdict; one that has had its own is forgotten by now."""
        with self._watch.measured():
            self._watch.left(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the event log is the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shell, ()


class StudyScheduler(FIFOScheduler):
    """Gives the journal's verdicts; a report is in the log before its worker goes on."""

    def __init__(self, watch: Watch) -> None:
        """Judge as the journal says."""
        super().__init__()
        self._watch = watch

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record the result; STOP whatever its verdict ended."""
        with self._watch.measured():
            going_on = self._watch.report(trial.trial_id, trial.config["trial_id"], unpacked(result))
        return str(TrialScheduler.CONTINUE if going_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Record a worker that died; another attempt at it is an assignment of its own."""
        with self._watch.measured():
            text = str(trial.get_error() or "").strip()
            last = text.splitlines()[-1:]
            self._watch.died(trial.trial_id, "; ".join(["its worker process died", *last]), _host_in(text))

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shell, ()


def unpacked(result: dict[str, Any]) -> dict[str, Any]:
    """Return a report as it was before ``trial.packed``."""
    return {**result, "metrics": dict(result.get("metrics", ()))}


def _host_in(error: str) -> str | None:
    """Return the host of the address that Ray's error names, for a worker that died before it told anything."""
    addresses = [line.partition("ip:")[2].strip() for line in error.splitlines() if line.strip().startswith("ip:")]
    if not addresses:
        return None
    hosts = [node.host for node in alive_nodes() if node.address == addresses[-1]]
    return hosts[0] if len(hosts) == 1 else None


class StudyStopper(Stopper):
    """Ends the search when the journal says so."""

    def __init__(self, watch: Watch) -> None:
        """Stop when the journal says so."""
        self._watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Leave single trials to the scheduler."""
        return False

    def stop_all(self) -> bool:
        """Say whether a signal, a budget, a fault or a tainted study ends the search."""
        with self._watch.measured():
            return self._watch.is_over()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shell, ()


class StudyCallback(tune.Callback):
    """Looks after the workers: notes when they begin, and kills those that hang."""

    def __init__(self, watch: Watch) -> None:
        """Look after the journal's attempts."""
        self._watch = watch

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a worker has been given a trial."""
        with self._watch.measured():
            self._watch.begun(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Kill the workers of trials that hang; what that does to Tune's trial is then an error like any death."""
        with self._watch.measured():
            late = self._watch.overdue()
        for trial in trials if late else ():
            if trial.trial_id in late and (worker := trial.temporary_state.ray_actor) is not None:
                ray.kill(worker)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shell, ()
