"""What became of a search, from three witnesses: the event log's lines, its workers' notes, MLflow's own client."""

import json
import math
from collections import Counter
from typing import NamedTuple


class Note(NamedTuple):
    """One line of a worker about an epoch."""

    time: float
    trial: str
    epoch: int
    attempt: int
    pid: int
    what: str


def log_records(path):
    """Return the records of an event log's complete lines."""
    content = path.read_bytes()
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def ended(records):
    """Return each trial's ending record by its id; a second ending of a trial is an error."""
    found = {}
    for record in records:
        if record["kind"] == "ended" or (record["kind"] == "epoch" and record["verdict"] != "continue"):
            assert record["trial"] not in found, record
            found[record["trial"]] = record
    return found


def notes(path):
    """Return what workers noted, in order."""
    found = [line.split() for line in path.read_text().splitlines()]
    kinds = (float, str, int, int, int, str)
    return [Note(*(kind(word) for kind, word in zip(kinds, words, strict=True))) for words in found]


def redone(executed):
    """Return how many epochs workers began again that one had begun before."""
    begun = Counter((note.trial, note.epoch) for note in executed if note.what == "begin")
    return sum(begun.values()) - len(begun)


def after_their_end(records, executed):
    """Return what was started, recorded or executed of trials that had ended."""
    at = {trial: record["time"] for trial, record in ended(records).items()}
    late = [record for record in records if record["time"] > at.get(record.get("trial"), math.inf)]
    return late + [note for note in executed if note.time > at.get(note.trial, math.inf)]


class LoggedRun(NamedTuple):
    """A run as MLflow's own client gives it; ``metrics``: name -> [(step, value)] of the whole history."""

    trial: str | None
    parent: str | None
    run_id: str
    status: str
    outcome: str
    metrics: dict[str, list[tuple[int, float]]]


def logged_runs(root):
    """Return all runs of the database under a root."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    found = []
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            run_id, tags = run.info.run_id, run.data.tags
            history = {
                name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
                for name in run.data.metrics
            }
            parent = tags.get("mlflow.parentRunId")
            outcome = tags.get("odmt.outcome")
            found.append(LoggedRun(tags.get("odmt.trial"), parent, run_id, run.info.status, outcome, history))
    return found
