"""Splits and features in Ray's object store: one copy a node, read-only views, rebuilt when a node dies.

The driver looks at the prepared files and plans; tasks load one shard of features each, as many at once as there are
CPUs, so that beside the object store no more than a shard a CPU is held.

NumPy's read-only flag is all that protects shared memory, and a torch tensor over such an array ignores it: one write
in place changes the features of every trial. So a task tells the checksum of every row, which it has compared with the
stored one; trials check a rotating sample of rows before each report, and the driver checks all rows at the end.
"""

import json
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from odmt.cluster.nodes import alive_nodes
from odmt.cluster.task_errors import cause_of
from odmt.config import DataConfig, RunConfig, Section, from_mapping, to_mapping
from odmt.errors import DataError, MissingDataError, ServiceError, SharedFeaturesError
from odmt.experiment.arrays import TrialArrays, load_split, plan_encoder_features
from odmt.features.ragged import FeatureShard, RaggedFeatures
from odmt.features.shards import LoadedShard, ShardPlan, load_shard
from odmt.features.store import EncoderConfig
from odmt.home import Home

SAMPLED_ROWS = 64


class Shared(NamedTuple):
    """One set of features.

    Attributes:
        num_rows: of its catalogue.
        shards: references to its shards.
        checksums: references to the checksums of their rows.
    """

    num_rows: int
    shards: list[Any]
    checksums: list[Any]


@dataclass(frozen=True)
class SharedArrays:
    """References to everything that the trials of a space can ask for, by what asks for it."""

    splits: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Shared] = field(default_factory=dict)


class Loaders(NamedTuple):
    """How splits and features are read.

    Attributes:
        split: called in a task.
        plan: called by the driver; what it returns is handed to ``shard``, one a task.
        shard: called in tasks.
    """

    split: Callable[[Home, DataConfig], Any] = load_split
    plan: Callable[[Home, DataConfig, EncoderConfig], Sequence[ShardPlan]] = plan_encoder_features
    shard: Callable[[ShardPlan], LoadedShard] = load_shard


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
                plans = loaders.plan(home, config.data, encoder)
                shards, checksums = zip(*(_load_shard.remote(loaders.shard, plan) for plan in plans), strict=True)
                shared.features[key] = Shared(plans[0].num_rows, list(shards), list(checksums))
    try:
        ray.get(list(shared.splits.values()))
        for features in shared.features.values():
            ray.get(features.checksums)
    except ray.exceptions.RayError as error:
        if is_store_full(error):
            raise ServiceError(store_sentence()) from error
        if isinstance(error, ray.exceptions.RayTaskError):
            raise cause_of(error) from error
        raise
    return shared


def is_store_full(error: BaseException) -> bool:
    """Say whether Ray had no room for an object, in memory or on the disk that it spills to."""
    full = (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)
    return isinstance(error, full) or isinstance(getattr(error, "cause", None), full)


def store_sentence() -> str:
    """Say that the object store is full, with the sizes."""
    held = min((node.store_bytes for node in alive_nodes()), default=0.0)
    disk = shutil.disk_usage(tempfile.gettempdir())
    return (
        f"Ray's object store is full: the smallest node's holds {held / 2**30:.2f} GB, and {tempfile.gettempdir()} of "
        f"{socket.gethostname()} has {disk.free / 2**30:.2f} GB free to spill to; make room there, enlarge the store "
        "(--object-store-memory), or use smaller encoders"
    )


def arrays_for(shared: SharedArrays, config: RunConfig) -> tuple[TrialArrays, list[tuple[RaggedFeatures, np.ndarray]]]:
    """Return what a configuration reads, as views into shared memory, and its features with their checksums."""
    parts = [shared.features[key_of(config.data, encoder)] for encoder in (config.features.text, config.features.image)]
    split = ray.get(shared.splits[key_of(config.data)])
    loaded = [_views(part) for part in parts]
    return TrialArrays(split, loaded[0][0], loaded[1][0]), loaded


def row_checksums(features: RaggedFeatures, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the uint32 CRC-32 of the tokens of some rows; None = of all."""
    chosen = np.arange(features.num_rows) if rows is None else rows
    found = (zlib.crc32(np.ascontiguousarray(features.tokens_of(row)).data) for row in chosen.tolist())
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
        _check_all.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(features)
        for node in nodes
        if node != here
        for features in shared.features.values()
    ]
    for features in shared.features.values():
        _check_rows(*_views(features))  # no worker has to start for this
    try:
        ray.get(elsewhere)
    except ray.exceptions.RayTaskError as error:
        raise cause_of(error) from error


def _views(shared: Shared) -> tuple[RaggedFeatures, np.ndarray]:
    """Return features as views into shared memory, and the checksum of each catalogue row; 0 where it has no tokens."""
    shards: list[FeatureShard] = ray.get(shared.shards)
    checksums = np.zeros(shared.num_rows, dtype=np.uint32)
    for shard, found in zip(shards, ray.get(shared.checksums), strict=True):
        checksums[shard.rows] = found
    return RaggedFeatures.joined(shards, shared.num_rows), checksums


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


def _require_shared(path: Path, error: DataError) -> None:
    """Say so where a task that was refused lacks what the driver has seen before it called the task."""
    if not path.exists():
        raise MissingDataError(
            f"{path}: does not exist on node {socket.gethostname()}; ODMT_HOME must be on a file system that all "
            "nodes share"
        ) from error


# One CPU each, so that no more workers start than trials will want: these are reused for them.
@ray.remote(max_retries=-1, num_cpus=1)
def _load_split(load: Callable[..., Any], root: str, data: dict[str, Any]) -> Any:
    home, config = Home(Path(root)), from_mapping(DataConfig, data, "data")
    try:
        return load(home, config)
    except DataError as error:
        _require_shared(home.dataset(config.dataset), error)
        raise


@ray.remote(max_retries=-1, num_cpus=1, num_returns=2)
def _load_shard(load: Callable[[ShardPlan], LoadedShard], plan: ShardPlan) -> LoadedShard:
    try:
        return load(plan)
    except DataError as error:
        _require_shared(plan.path, error)
        raise


@ray.remote(max_retries=-1, num_cpus=0)
def _check_all(shared: Shared) -> None:
    _check_rows(*_views(shared))
