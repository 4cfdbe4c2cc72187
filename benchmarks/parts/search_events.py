"""A search that does no work: its event log and what MLflow must hold of it afterwards."""

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

from odmt.config import RunConfig, dotted_values, to_mapping
from odmt.tuning.event_log import EventLog

STUDY, STUDY_ID, DATASET = "outage", "outage-1", "made"
METRICS = ("valid/ndcg_at_10", "valid/hr_at_10", "train/loss", "train/ce", "train/kd", "cost/parameters")


def begin(log: EventLog, trials: int) -> None:
    log.commit(
        "header", study=STUDY, study_id=STUDY_ID, space="made", dataset=DATASET, data_digest="d", run_digests=[],
        trials=trials, seed=1, objectives=[["valid/ndcg_at_10", "max"]],
    )  # fmt: skip


def steps(
    log: EventLog, trials: int, epochs: int, at_once: int, stop: threading.Event | None = None
) -> Iterator[float]:
    """Commit one record after another, as a search with some trials at once would; once stopped it begins no more.

    Yields:
        After each record the seconds that its commit took, listeners included.
    """
    config = to_mapping(RunConfig())
    todo = list(range(trials))
    running: list[list[int]] = []
    draw = random.Random(1)
    while todo or running:
        if stop is not None and stop.is_set():
            todo = []
        while todo and len(running) < at_once:
            number = todo.pop(0)
            yield _commit(
                log, "proposed", trial=_name(number), number=number, values={"train.weight_decay": number / 10},
                config=config, distributions={}, system_attrs={}, draws=1, source="sampler", sentinel=number == 1,
            )  # fmt: skip
            yield _commit(log, "started", trial=_name(number), attempt=1)
            running.append([number, 0])
        for one in list(running):
            one[1] += 1
            number, epoch = one
            failed = number % 5 == 4 and epoch == epochs
            verdict = "complete" if epoch == epochs and not failed else "continue"
            metrics = {name: draw.random() for name in METRICS}
            yield _commit(
                log, "epoch", trial=_name(number), epoch=epoch, metrics=metrics, verdict=verdict, checkpoint=None,
                seconds=1.0, reason=None, host="h",
            )  # fmt: skip
            if failed:
                yield _commit(
                    log, "ended", trial=_name(number), state="failed", reason="RuntimeError: out of luck",
                    traceback="Traceback (most recent call last):\n  made up", log_tail="epoch 9\nepoch 10",
                )  # fmt: skip
            if epoch == epochs:
                running.remove(one)


def differences(log: EventLog, client: Any) -> list[str]:
    """Compare MLflow with the log: one parent, one run a trial, every metric of every epoch exactly once."""
    experiment = client.get_experiment_by_name(DATASET)
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    found: list[str] = []
    parents = [run for run in runs if "odmt.trial" not in run.data.tags]
    if len(parents) != 1:
        found.append(f"{len(parents)} parent runs")
    for trial in log.study.trials.values():
        own = [run for run in runs if run.data.tags.get("odmt.trial") == trial.trial_id]
        if len(own) != 1:
            found.append(f"{trial.trial_id}: {len(own)} runs")
            continue
        if own[0].data.tags.get("mlflow.parentRunId") != parents[0].info.run_id:
            found.append(f"{trial.trial_id}: another parent")
        if trial.is_ended and own[0].data.tags.get("odmt.outcome") != trial.state:
            found.append(f"{trial.trial_id}: outcome {own[0].data.tags.get('odmt.outcome')}, not {trial.state}")
        if set(own[0].data.params) != set(dotted_values(RunConfig())):
            found.append(f"{trial.trial_id}: other parameters")
        for name in METRICS:
            expected = [(epoch.epoch, epoch.metrics[name]) for epoch in trial.epochs]
            history = client.get_metric_history(own[0].info.run_id, name)
            there = sorted((item.step, item.value) for item in history)
            if there != expected:
                found.append(f"{trial.trial_id}: {name}: {len(there)} values, not {len(expected)}")
    return found


def _name(number: int) -> str:
    return f"t{number:04d}"


def _commit(log: EventLog, kind: str, **fields: Any) -> float:
    begun = time.perf_counter()
    log.commit(kind, **fields)
    return time.perf_counter() - begun
