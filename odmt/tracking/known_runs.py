"""Which runs a study has in MLflow, and that there is one a trial whatever became of an answer."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EPOCH_KEY = "epoch"
RUNNING = "running"
UNFINISHED = ("killed", RUNNING)
PARENT = ""
PARENT_TAG = "mlflow.parentRunId"
ATTEMPTS_TAG = "odmt.attempts"

_log = logging.getLogger(__name__)


@dataclass
class TrialRun:
    """What is known of a trial's run.

    Attributes:
        complete: its outcome has arrived; nothing is sent any more.
        last_epoch: up to which every metric has arrived.
        params: resolved values as dotted paths, for the checkpoint's configuration.
        dropped: names of metrics that were not finite, in order.
        known_params: that have arrived.
        attempts: what its tag says of them; None = nothing.
        artifact_failures: times that its files were refused while the server answered everything else.
    """

    run_id: str
    complete: bool
    last_epoch: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    dropped: dict[str, None] = field(default_factory=dict)
    known_params: set[str] = field(default_factory=set)
    attempts: str | None = None
    artifact_failures: int = 0


class KnownRuns(NamedTuple):
    """A study's runs in MLflow, the trials' by their ids."""

    parent: "Run | None"
    trials: dict[str, TrialRun]


def known_runs(client: "MlflowClient", experiment: str, study_id: str, in_use: Collection[str] = ()) -> KnownRuns:
    """Find a study's runs by their tags; empty twins are deleted.

    MLflow has no request that makes a run once: where the answer got lost, or where the request was still on its way
    when its sender was killed, a second run for the same trial may turn up later. Nobody knows its id, so it is empty.

    Args:
        client: the way to MLflow.
        experiment: its id.
        study_id: the study's.
        in_use: ids of runs that are being written to; of twins these stay.
    """
    twins = _twins(client, experiment, study_id)
    chosen = _chosen(twins, in_use)
    for trial_id, runs in twins.items():
        _delete_empty(client, trial_id, (run for run in runs if run is not chosen[trial_id]))
    parent = chosen.pop(PARENT, None)
    if parent is not None:
        for run in chosen.values():
            if run.data.tags.get(PARENT_TAG) != parent.info.run_id:
                client.set_tag(run.info.run_id, PARENT_TAG, parent.info.run_id)
    return KnownRuns(parent, {trial_id: _seen(run) for trial_id, run in chosen.items()})


def parent_run(client: "MlflowClient", experiment: str, study_id: str) -> "Run | None":
    """Return the run that ``known_runs`` gives as the parent; only looks, and changes nothing."""
    return _chosen(_twins(client, experiment, study_id), ()).get(PARENT)


def _twins(client: "MlflowClient", experiment: str, study_id: str) -> "dict[str, list[Run]]":
    """Return all runs of each trial, and of the parent."""
    twins: dict[str, list[Run]] = {}
    for run in _find_runs(client, experiment, study_id):
        twins.setdefault(run.data.tags.get("odmt.trial", PARENT), []).append(run)
    return twins


def _chosen(twins: "Mapping[str, list[Run]]", in_use: Collection[str]) -> "dict[str, Run]":
    """Return of a trial's runs the furthest, of parents the one that most trials name; else the first made."""
    children = [run for trial_id, runs in twins.items() if trial_id != PARENT for run in runs]
    pointed_at = [run.data.tags.get(PARENT_TAG) for run in children]

    def order(run: "Run") -> tuple[Any, ...]:
        run_id = run.info.run_id
        return run_id not in in_use, *_how_far(run), -pointed_at.count(run_id), run.info.start_time, run_id

    return {trial_id: min(runs, key=order) for trial_id, runs in twins.items()}


def _how_far(run: "Run") -> tuple[bool, int, int]:
    seen = _seen(run)
    return not seen.complete, -seen.last_epoch, -len(seen.known_params)


def _delete_empty(client: "MlflowClient", trial_id: str, runs: "Iterable[Run]") -> None:
    for run in runs:
        what = f"trial {trial_id}" if trial_id else "the study"
        if run.data.metrics or run.data.params:
            _log.warning("MLflow has a second run of %s that is not empty, %s; it is left", what, run.info.run_id)
        else:
            _log.warning("MLflow has a second, empty run of %s, %s; it is deleted", what, run.info.run_id)
            client.delete_run(run.info.run_id)


def _find_runs(client: "MlflowClient", experiment: str, study_id: str) -> "Iterator[Run]":
    query, token = f"tags.`odmt.study_id` = '{study_id}'", None
    while True:
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _seen(run: "Run") -> TrialRun:
    outcome = run.data.tags.get("odmt.outcome")
    dropped = run.data.tags.get("odmt.non_finite", "")
    return TrialRun(
        str(run.info.run_id),
        complete=outcome is not None and outcome not in UNFINISHED,
        last_epoch=int(run.data.metrics.get(EPOCH_KEY, 0)),
        dropped=dict.fromkeys(dropped.split("; ")) if dropped else {},
        known_params=set(run.data.params),
        attempts=run.data.tags.get(ATTEMPTS_TAG),
    )
