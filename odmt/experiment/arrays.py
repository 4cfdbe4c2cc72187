"""What a trial receives, loaded from the prepared files: the split without test items, and the frozen features."""

import hashlib
import json
from typing import NamedTuple

import numpy as np

from odmt.config import DataConfig, ImageEncoderConfig, RunConfig, TextEncoderConfig
from odmt.data.interactions import dataset_digest, read_catalogue, read_interactions
from odmt.data.split import DevelopmentSplit, FullSplit, development_split, last_item_targets, split_interactions
from odmt.evaluation.floors import floor_metrics
from odmt.features.ragged import RaggedFeatures
from odmt.features.shards import ShardPlan, load_features, plan_shards
from odmt.features.store import feature_store_path, held_manifest, items_digest
from odmt.home import Home


class TrialArrays(NamedTuple):
    """Everything a training run reads; a trial opens no file."""

    split: DevelopmentSplit
    text: RaggedFeatures
    image: RaggedFeatures


def load_full_split(home: Home, data: DataConfig) -> FullSplit:
    """Read a data set and split it, test items included: for the loaders and the sealed test only.

    Raises:
        DataError: the data set is not prepared or no user is long enough.
    """
    folder = home.dataset(data.dataset)
    catalogue = read_catalogue(folder)
    return split_interactions(read_interactions(folder, catalogue), data.max_seq_len, data.min_seq_len)


def load_split(home: Home, data: DataConfig) -> DevelopmentSplit:
    """Read a data set and split it; the result holds no user's last item.

    Raises:
        DataError: the data set is not prepared or no user is long enough.
    """
    return development_split(load_full_split(home, data))


def load_encoder_features(
    home: Home, data: DataConfig, encoder: TextEncoderConfig | ImageEncoderConfig
) -> RaggedFeatures:
    """Read one encoder's features of the whole catalogue.

    Raises:
        DataError: they are not extracted, or stale, partial or unreadable.
    """
    needed = load_full_split(home, data).item_rows
    return load_features(home, data.dataset, encoder, read_catalogue(home.dataset(data.dataset)), needed)


def plan_encoder_features(
    home: Home, data: DataConfig, encoder: TextEncoderConfig | ImageEncoderConfig, needed: np.ndarray | None = None
) -> list[ShardPlan]:
    """Return the shards in which one encoder's features of the whole catalogue can be loaded; none is read.

    Args:
        home: the root of all data.
        data: which data set, and how it is split.
        encoder: the frozen encoder.
        needed: ``item_rows`` of the split; None = split it now.

    Raises:
        DataError: they are not extracted, or stale, partial or unreadable.
    """
    if needed is None:
        needed = load_full_split(home, data).item_rows
    return plan_shards(home, data.dataset, encoder, read_catalogue(home.dataset(data.dataset)), needed)


def load_arrays(home: Home, config: RunConfig) -> TrialArrays:
    """Load everything one configuration needs, without Ray."""
    return TrialArrays(
        load_split(home, config.data),
        load_encoder_features(home, config.data, config.features.text),
        load_encoder_features(home, config.data, config.features.image),
    )


def arrays_digest(home: Home, config: RunConfig, rows: np.ndarray | None = None) -> str:
    """Return a digest of all that a run reads, for logs and a study's identity.

    It covers the interactions, the titles and pictures of the items that take part, both encoders (of a hub model the
    commit that the features were made with), the precisions that they were computed in, and the protocol.

    Args:
        home: the root of all data.
        config: of the run.
        rows: ``item_rows`` of its split; None = split it now.

    Raises:
        DataError: the data set is not prepared.
    """
    dataset = config.data.dataset
    if rows is None:
        rows = load_full_split(home, config.data).item_rows
    catalogue = read_catalogue(home.dataset(dataset))
    encoders = (config.features.text, config.features.image)
    sources = []
    for encoder in encoders:
        path = feature_store_path(home, dataset, encoder)
        held = held_manifest(path) or {}
        items = items_digest(home, dataset, encoder, catalogue, rows)
        sources.append((path.stem, held.get("commit"), held.get("precisions"), items))
    protocol = [config.data.max_seq_len, config.data.min_seq_len, config.data.rank_repeat_targets]
    parts = json.dumps([dataset_digest(home.dataset(dataset)), sources, protocol])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def validation_floors(split: DevelopmentSplit, *, rank_repeat_targets: bool = False) -> dict[str, dict[str, float]]:
    """Measure the two plain rankers on the validation targets; see ``floor_metrics``."""
    train = last_item_targets(split.offsets, split.items)
    return floor_metrics(
        train.offsets,
        train.history.astype(np.int64),
        split.num_items,
        train,
        rank_repeat_targets=rank_repeat_targets,
    )
