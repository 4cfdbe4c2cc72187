"""A study's trial on its way to the registry: its run, its test metrics, its item vectors. Plain values in."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odmt.config import RunConfig, dotted_values, to_mapping
from odmt.data.interactions import read_catalogue
from odmt.experiment.arrays import load_split
from odmt.home import Home, code_version
from odmt.tracking.connection import connect
from odmt.tracking.delivery import Delivery
from odmt.tracking.events import Event, Study, TrialEnded, TrialEpoch, TrialStarted
from odmt.tracking.registry import Candidate
from odmt.tracking.values import chunks, split_finite

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PromotedTrial:
    """What promotion needs to know about a trial."""

    study: str
    study_id: str
    data_digest: str
    trial_id: str
    number: int
    outcome: str
    config: RunConfig
    values: Mapping[str, Any]
    epochs: Sequence[tuple[int, Mapping[str, float]]]
    best_epoch: int
    checkpoint: Path


def ensure_run(home: Home, trial: PromotedTrial) -> str:
    """Return the id of the trial's run; sends the trial first where MLflow has not got it all.

    Raises:
        ServiceError: MLflow cannot be reached.
    """
    tags = {"odmt.data_digest": trial.data_digest, "odmt.code_version": code_version()}
    study = Study(trial.config.data.dataset, trial.study, trial.study_id, tags, {})
    delivery = Delivery(home, study, reopens=False)
    now = int(time.time() * 1000)
    best = next(metrics for epoch, metrics in trial.epochs if epoch == trial.best_epoch)
    events: list[Event] = [
        TrialStarted(trial.trial_id, trial.number, dotted_values(trial.config), now),
        *(TrialEpoch(trial.trial_id, epoch, metrics, now) for epoch, metrics in trial.epochs),
        TrialEnded(trial.trial_id, trial.outcome, best, trial.checkpoint, None, now),
    ]
    delivery.send(events)
    delivery.end_parent_if_made(now)
    return delivery.run_id(trial.trial_id)


def log_test(
    home: Home, run_id: str, metrics: Mapping[str, float], floors: Mapping[str, Mapping[str, float]], reads: int
) -> None:
    """Log what the sealed test found as ``test/...``, the floors as ``test/floor/<name>/...``; again changes nothing.

    Raises:
        ServiceError: MLflow cannot be reached.
    """
    client = connect(home)
    from mlflow.entities import Metric, RunTag

    named = dict(metrics)
    for floor, found in floors.items():
        named |= {f"floor/{floor}/{name}": value for name, value in found.items()}
    known = client.get_run(run_id).data.metrics
    now = int(time.time() * 1000)
    new = [
        Metric(f"test/{name}", value, now, 0)
        for name, value in split_finite(named).kept.items()
        if known.get(f"test/{name}") != value
    ]
    for part in chunks(new, 500):
        client.log_batch(run_id, metrics=part)
    client.log_batch(run_id, tags=[RunTag("odmt.sealed_test_reads", str(reads))])


def make_candidate(home: Home, trial: PromotedTrial, run_id: str) -> Candidate:
    """Return what the registry needs; vectors are made only if a new version is.

    Raises:
        DataError: the data set is missing.
    """
    catalogue = read_catalogue(home.dataset(trial.config.data.dataset))
    rows = load_split(home, trial.config.data).item_rows
    return Candidate(
        dataset=trial.config.data.dataset,
        checkpoint=trial.checkpoint,
        config=to_mapping(trial.config),
        make_table=partial(item_vectors, home, trial.config, trial.checkpoint),
        item_ids=[catalogue.item_ids[row] for row in rows],
        titles=[catalogue.titles[row] for row in rows],
        run_id=run_id,
        study=trial.study,
        study_id=trial.study_id,
        trial_id=trial.trial_id,
        tags={"odmt.data_digest": trial.data_digest, "odmt.code_version": code_version()},
    )


def item_vectors(home: Home, config: RunConfig, checkpoint: Path) -> "dict[str, Tensor]":
    """Encode all items with a checkpoint's weights; the vectors by branch.

    Raises:
        DataError: features are missing.
        CheckpointError: the weights do not fit.
    """
    from odmt.evaluation.evaluator import item_table
    from odmt.experiment.arrays import load_arrays
    from odmt.experiment.build import build_features, choose_device, load_model

    arrays = load_arrays(home, config)
    device = choose_device()
    model = load_model(config, arrays, checkpoint, str(device))
    features = build_features(config, arrays, model.item_encoder.reads, device)
    table = item_table(model, features.chunks(config.train.eval_batch_size))
    return dict(zip(model.branches, table, strict=True))
