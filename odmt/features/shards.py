"""Features read back from their store in shards; only if they are whole, current and undamaged.

A shard is a run of the store's keys, the external item ids in the order of their UTF-8 bytes: in that order LMDB finds
them and extraction writes them, so a shard is one stretch of the file whatever the order of the catalogue, unless the
catalogue has grown since: new records lie where there was room. A plan looks at the manifest and at the digests,
which stand side by side. Loading goes once through the records of a run.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from odmt.data.interactions import Catalogue, prepare_command, read_interactions
from odmt.errors import FeatureStoreError, MissingDataError
from odmt.features.images import DIGEST_BYTES
from odmt.features.ragged import FeatureShard, RaggedFeatures
from odmt.features.records import RecordFile
from odmt.features.store import (
    HEADER_BYTES,
    EncoderConfig,
    encoder_spec,
    feature_store_path,
    held_digests,
    modality_of,
    open_features,
    other_encoder,
    source_digests,
)
from odmt.features.workers import usable_cpus
from odmt.home import Home

SHARD_BYTES = 256 * 2**20
"""Most bytes of tokens in a shard: what a loader takes beside the object store, and few enough shards for a gather."""


class ShardPlan(NamedTuple):
    """A run of a feature store that becomes a shard; all that a loader has to know.

    Attributes:
        path: the store.
        dataset: whose it is, to name the command that mends it.
        num_rows: of the whole catalogue.
        rows: int32, the run's catalogue rows in the order of their keys.
        item_ids: of these rows.
        digests: of what their features must have been made from.
    """

    path: Path
    dataset: str
    num_rows: int
    rows: np.ndarray
    item_ids: list[str]
    digests: list[bytes]


class LoadedShard(NamedTuple):
    """A shard, and the uint32 CRC-32 of the tokens of each of its rows."""

    features: FeatureShard
    checksums: np.ndarray


def plan_shards(
    home: Home,
    dataset: str,
    encoder: EncoderConfig,
    catalogue: Catalogue,
    needed_rows: np.ndarray | None = None,
    shard_bytes: int | None = None,
) -> list[ShardPlan]:
    """Cut the features that a data set needs into runs of about equal size; no feature is read.

    Lengths are not known then: LMDB's binding reads a record whole before it tells its length. Every item counts with
    the most tokens that the manifest allows.

    Args:
        home: the root of all data.
        dataset: name of the data set.
        encoder: the frozen encoder.
        catalogue: the data set's items.
        needed_rows: catalogue rows that must have features. None = every row that occurs in the interactions.
        shard_bytes: most bytes of tokens in a shard; None = ``SHARD_BYTES``. An item is never cut.

    Returns:
        At least one run.

    Raises:
        MissingDataError: there are no features of this encoder yet.
        FeatureStoreError: they are partial, stale, unreadable or another encoder's.
    """
    path = feature_store_path(home, dataset, encoder)
    if not path.exists():
        raise MissingDataError(
            f"data set {dataset!r} has no {modality_of(encoder)} features of {encoder.model} ({path} does not exist); "
            f"run: {prepare_command(dataset)}"
        )
    if needed_rows is None:
        needed_rows = read_interactions(home.dataset(dataset), catalogue).occurring_rows
    ids, digests = catalogue.item_ids, source_digests(home, dataset, encoder, catalogue)
    by_key = np.array(sorted(set(needed_rows.tolist()), key=lambda row: ids[row].encode()), dtype=np.int32)
    with _mended_by(dataset), open_features(path) as store:
        manifest = store.manifest()
        if problem := other_encoder(manifest, encoder_spec(encoder, home.dataset(dataset))):
            raise FeatureStoreError(f"{path}: {problem}; delete the file")
        _check_digests(store, [ids[row] for row in by_key], digests)
    item_bytes = 2 * manifest["width"] * manifest["max_tokens"]
    items_a_shard = max(1, (SHARD_BYTES if shard_bytes is None else shard_bytes) // item_bytes)
    runs = np.array_split(by_key, max(1, -(-len(by_key) // items_a_shard)))
    return [
        ShardPlan(path, dataset, len(ids), run, [ids[row] for row in run], [digests[ids[row]] for row in run])
        for run in runs
    ]


def load_shard(plan: ShardPlan) -> LoadedShard:
    """Load one run of a feature store.

    Raises:
        FeatureStoreError: the store is partial, stale, damaged or unreadable.
    """
    with _mended_by(plan.dataset), open_features(plan.path) as store:
        return _read(store, plan)


def load_features(
    home: Home,
    dataset: str,
    encoder: EncoderConfig,
    catalogue: Catalogue,
    needed_rows: np.ndarray | None = None,
) -> RaggedFeatures:
    """Load the features of a data set, aligned with its catalogue.

    Args:
        home: the root of all data.
        dataset: name of the data set.
        encoder: the frozen encoder.
        catalogue: the data set's items.
        needed_rows: catalogue rows that must have features; the rest get length 0. None = every row that occurs in
            the interactions.

    Raises:
        MissingDataError: there are no features of this encoder yet.
        FeatureStoreError: they are partial, stale, damaged or unreadable.
    """
    plans = plan_shards(home, dataset, encoder, catalogue, needed_rows)
    threads = min(len(plans), usable_cpus() + 1)  # reading, checksums and copies run without the GIL; one may wait
    with _mended_by(dataset), open_features(plans[0].path) as store, ThreadPoolExecutor(threads) as pool:
        shards = [loaded.features for loaded in pool.map(lambda plan: _read(store, plan), plans)]
    return RaggedFeatures.joined(shards, len(catalogue.item_ids))


def _read(store: RecordFile, plan: ShardPlan) -> LoadedShard:
    manifest = store.manifest()
    width, max_tokens = manifest["width"], manifest["max_tokens"]
    # Memory that no token is written to is never touched.
    tokens = np.empty((len(plan.rows) * max_tokens, width), dtype=np.float16)
    offsets = np.zeros(len(plan.rows) + 1, dtype=np.int64)
    checksums = np.zeros(len(plan.rows), dtype=np.uint32)
    end = 0
    with store.view() as view:
        for place, (item, digest) in enumerate(zip(plan.item_ids, plan.digests, strict=True)):
            record = view.get(item)
            if record is None:
                raise _missing(store.path, item)
            if record[:DIGEST_BYTES] != digest:
                raise _stale(store.path, item)
            count, rest = divmod(len(record) - HEADER_BYTES, 2 * width)
            if rest or not 0 < count <= max_tokens:
                raise _damaged(store.path, item)
            own = tokens[end : end + count]
            own[:] = np.frombuffer(record, dtype="<f2", offset=HEADER_BYTES).reshape(count, width)
            checksums[place] = crc32(own.data)
            if checksums[place] != int.from_bytes(record[DIGEST_BYTES:HEADER_BYTES], "little"):
                raise _damaged(store.path, item)
            end += count
            offsets[place + 1] = end
    return LoadedShard(FeatureShard(tokens[:end], offsets, plan.rows), checksums)


def _check_digests(store: RecordFile, items: Sequence[str], digests: Mapping[str, bytes]) -> None:
    held = held_digests(store)
    for item in items:
        if item not in held:
            raise _missing(store.path, item)
        if held[item] != digests.get(item):
            raise _stale(store.path, item)


def _missing(path: Path, item: str) -> FeatureStoreError:
    return FeatureStoreError(f"{path}: has no features of item {item!r}")


def _stale(path: Path, item: str) -> FeatureStoreError:
    return FeatureStoreError(f"{path}: features of item {item!r} are stale: its source has changed since")


def _damaged(path: Path, item: str) -> FeatureStoreError:
    return FeatureStoreError(f"{path}: features of item {item!r} are damaged; delete the file")


@contextmanager
def _mended_by(dataset: str) -> Iterator[None]:
    try:
        yield
    except FeatureStoreError as error:
        raise FeatureStoreError(f"{error}; run: {prepare_command(dataset)}") from error
