"""What is asked of the prepared files before Ray starts: are they there, whole, and how large."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from odmt.cluster.shared_features import Loaders
from odmt.config import DataConfig, ImageEncoderConfig, TextEncoderConfig
from odmt.experiment.arrays import arrays_digest, load_split, plan_encoder_features
from odmt.features.store import feature_store_path, modality_of
from odmt.home import Home
from odmt.tuning.space import Space


class Inputs(NamedTuple):
    """What the trials of a space read.

    Attributes:
        digest: of the content of everything.
        feature_bytes: at most, in the object store.
        sentences: for the screen.
    """

    digest: str
    feature_bytes: int
    sentences: list[str]
    run_digests: Sequence[str] = ()
    """What ``arrays_digest`` gives for each of the configurations that differ in what they read."""


def prepared_inputs(home: Home, space: Space) -> Inputs:
    """Look at the data sets and feature stores that a space can ask for, without reading the features.

    Raises:
        DataError: something is missing, cut off or unreadable; names the command that prepares it.
    """
    digests, sizes, sentences = set(), {}, []
    rows = {}
    for data in space.data_configs():
        split = load_split(home, data)
        rows[data] = split.item_rows
        sentences.append(
            f"data set {data.dataset}: {len(split.offsets) - 1} users, {split.num_items} items, "
            f"{len(split.items)} actions without the sealed last ones"
        )
    for config in space.loaded_configs():
        for encoder in (config.features.text, config.features.image):
            key = (config.data, encoder)
            if key not in sizes:
                sizes[key] = _store_bytes(home, config.data, encoder, rows[config.data])
                sentences.append(f"{modality_of(encoder)} features of {encoder.model}: {sizes[key] / 1e6:.1f} MB")
        digests.add(arrays_digest(home, config, rows[config.data]))
    ordered = sorted(digests)
    digest = ordered[0] if len(ordered) == 1 else hashlib.sha256(json.dumps(ordered).encode()).hexdigest()[:16]
    return Inputs(digest, sum(sizes.values()), sentences, ordered)


def _store_bytes(
    home: Home, data: DataConfig, encoder: TextEncoderConfig | ImageEncoderConfig, rows: np.ndarray
) -> int:
    plan_encoder_features(home, data, encoder, rows)  # says what is missing or stale, and the command that mends it
    return feature_store_path(home, data.dataset, encoder).stat().st_blocks * 512


@dataclass(frozen=True)
class Source:
    """Where a study's inputs come from; tests put arrays of their own here."""

    inputs: Callable[[Home, Space], Inputs] = prepared_inputs
    loaders: Loaders = field(default_factory=Loaders)
