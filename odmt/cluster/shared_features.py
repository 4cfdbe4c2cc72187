"""Splits and features in Ray's object store: one copy a node, read-only views, rebuilt when a node dies.

NumPy's read-only flag is all that protects shared memory, and a torch tensor over such an array ignores it: one write
in place changes the features of every trial. So a task records a checksum of every row, trials check a
rotating sample of rows before each report, and the driver checks all rows at the end.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from odmt.config import (
    DataConfig,
    ImageEncoderConfig,
    RunConfig,
    Section,
    TextEncoderConfig,
    from_mapping,
    to_mapping,
)
from odmt.errors import OdmtError, SharedFeaturesError
from odmt.experiment.arrays import TrialArrays, load_encoder_features, load_split
from odmt.features.ragged import RaggedFeatures
from odmt.home import Home

SAMPLED_ROWS = 64


class Shared(NamedTuple):
    """References to one set of features and to the checksums of its rows."""

    features: Any
    checksums: Any


@dataclass(frozen=True)
class SharedArrays:
    """References to everything that the trials of a space can ask for, by what asks for it."""

    splits: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Shared] = field(default_factory=dict)


class Loaders(NamedTuple):
    """How splits and features are read; called in tasks on the cluster."""

    split: Callable[[Home, DataConfig], Any] = load_split
    features: Callable[[Home, DataConfig, TextEncoderConfig | ImageEncoderConfig], RaggedFeatures] = (
        load_encoder_features
    )


def key_of(*sections: Section) -> str:
    """Return the key under which what these sections ask for is shared."""
    named = [[type(section).__name__, to_mapping(section)] for section in sections]
    return json.dumps(named, sort_keys=True)


def share(home: Home, configs: list[RunConfig], loaders: Loaders | None = None) -> SharedArrays:
    """Load once what these configurations ask for, by tasks that this driver calls.

    Raises:
        OdmtError: a loader refused: the data set or a feature store is missing or damaged.
    """
    loaders = loaders or Loaders()
    shared = SharedArrays()
    for config in configs:
        key = key_of(config.data)
        if key not in shared.splits:
            shared.splits[key] = _load_split.remote(loaders.split, str(home.root), to_mapping(config.data))
        for encoder in (config.features.text, config.features.image):
            key = key_of(config.data, encoder)
            if key not in shared.features:
                is_text = isinstance(encoder, TextEncoderConfig)
                shared.features[key] = Shared(
                    *_load_features.remote(
                        loaders.features, str(home.root), to_mapping(config.data), is_text, to_mapping(encoder)
                    )
                )
    try:
        for reference in [*shared.splits.values(), *(pair.checksums for pair in shared.features.values())]:
            ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error
    return shared


def arrays_for(shared: SharedArrays, config: RunConfig) -> tuple[TrialArrays, list[tuple[RaggedFeatures, np.ndarray]]]:
    """Return what a configuration reads, as views into shared memory, and its features with their checksums."""
    pairs = [shared.features[key_of(config.data, encoder)] for encoder in (config.features.text, config.features.image)]
    split = ray.get(shared.splits[key_of(config.data)])
    loaded = [(ray.get(pair.features), ray.get(pair.checksums)) for pair in pairs]
    return TrialArrays(split, loaded[0][0], loaded[1][0]), loaded


def row_checksums(features: RaggedFeatures, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the uint32 CRC-32 of the tokens of some rows; None = of all."""
    chosen = np.arange(features.num_rows) if rows is None else rows
    tokens, offsets = features
    found = (zlib.crc32(np.ascontiguousarray(tokens[offsets[row] : offsets[row + 1]]).data) for row in chosen)
    return np.fromiter(found, dtype=np.uint32, count=len(chosen))


def check_sample(features: RaggedFeatures, checksums: np.ndarray, turn: int, rows: int = SAMPLED_ROWS) -> None:
    """Compare some rows with their checksums: the next ones each turn, all of them in ``num_rows / rows`` turns.

    Raises:
        SharedFeaturesError: a row has changed since it was loaded.
    """
    count = min(rows, features.num_rows)
    chosen = (turn * count + np.arange(count)) % features.num_rows
    _compare(row_checksums(features, chosen), checksums[chosen], chosen)


def check_all(shared: SharedArrays) -> None:
    """Compare every shared row with its checksum, on every node: each has a copy of its own.

    Raises:
        SharedFeaturesError: a row has changed since it was loaded.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    elsewhere = [
        _check_all.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*pair)
        for node in nodes
        if node != here
        for pair in shared.features.values()
    ]
    for pair in shared.features.values():
        _check_rows(ray.get(pair.features), ray.get(pair.checksums))  # no worker has to start for this
    try:
        ray.get(elsewhere)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error


def _check_rows(features: RaggedFeatures, checksums: np.ndarray) -> None:
    _compare(row_checksums(features), checksums, np.arange(features.num_rows))


def _compare(found: np.ndarray, recorded: np.ndarray, rows: np.ndarray) -> None:
    changed = rows[found != recorded]
    if len(changed):
        raise SharedFeaturesError(
            f"shared features were written to in place: {len(changed)} of {len(rows)} checked rows differ from "
            f"what was loaded, the first is catalogue row {int(changed.min())}; a trial must copy rows before it "
            "changes them"
        )


def _cause(error: Any) -> BaseException:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, OdmtError) else error


# One CPU each, so that no more workers start than trials will want: these are reused for them.
@ray.remote(max_retries=-1, num_cpus=1)
def _load_split(load: Callable[..., Any], root: str, data: dict[str, Any]) -> Any:
    return load(Home(Path(root)), from_mapping(DataConfig, data, "data"))


@ray.remote(max_retries=-1, num_cpus=1, num_returns=2)
def _load_features(
    load: Callable[..., RaggedFeatures], root: str, data: dict[str, Any], is_text: bool, encoder: dict[str, Any]
) -> tuple[RaggedFeatures, np.ndarray]:
    kind = TextEncoderConfig if is_text else ImageEncoderConfig
    section: Any = from_mapping(kind, encoder, "features")
    features = load(Home(Path(root)), from_mapping(DataConfig, data, "data"), section)
    return features, row_checksums(features)


@ray.remote(max_retries=-1, num_cpus=0)
def _check_all(features: RaggedFeatures, checksums: np.ndarray) -> None:
    _check_rows(features, checksums)
