"""Resumable extraction: what a feature store lacks or holds of an older source is computed, the rest left alone.

Items are taken in the order of their keys, a batch at a time, and one writer keeps each batch as soon as it is done.
So a run that was cut off goes on with the same batches as one that was not, and a store lies on the disk in the order
of its keys.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odmt.commands import meter
from odmt.config import PrepareConfig
from odmt.data.interactions import Catalogue, prepare_command
from odmt.errors import FeatureStoreError
from odmt.features.encoding import Encoding, Inputs, LocalEncoding, OpenEncoding
from odmt.features.images import IMAGES_FILE
from odmt.features.records import RecordFile, check_space
from odmt.features.store import (
    FORMAT,
    HEADER_BYTES,
    EncoderConfig,
    checked_manifest,
    encoder_spec,
    feature_records,
    feature_store_path,
    has_other_precision,
    held_digests,
    modality_of,
    other_encoder,
    source_digests,
)
from odmt.files import sync
from odmt.home import Home

_PAGE_BYTES = 4096  # LMDB rounds a record of this size up to whole pages


class ExtractionResult(NamedTuple):
    """What an extraction did.

    Attributes:
        path: the store.
        extracted: items computed now.
        total: items that the data set needs.
        seconds: of the computation, the encoder's loading not counted.
        where: on what, in words; empty if nothing was computed.
    """

    path: Path
    extracted: int
    total: int
    seconds: float
    where: str


class Wanted(NamedTuple):
    """What a data set needs of an encoder.

    Attributes:
        path: the store.
        digests: of the needed items' titles or pictures, by item id in the order of keys.
        encoder: from ``encoder_spec``.
    """

    path: Path
    digests: dict[str, bytes]
    encoder: dict[str, Any]


def wanted_features(home: Home, dataset: str, encoder: EncoderConfig, catalogue: Catalogue, rows: np.ndarray) -> Wanted:
    """Return which features a data set needs, and where they belong.

    Raises:
        MissingDataError: there is no image store, or no encoder folder.
        FeatureStoreError: the image store lacks a picture.
    """
    digests = source_digests(home, dataset, encoder, catalogue)
    items = sorted((catalogue.item_ids[row] for row in rows), key=str.encode)
    for item in items:
        if item not in digests:
            path = home.dataset(dataset) / IMAGES_FILE
            raise FeatureStoreError(f"{path}: holds no picture of item {item!r}; run the images stage")
    spec = encoder_spec(encoder, home.dataset(dataset))
    return Wanted(feature_store_path(home, dataset, encoder), {item: digests[item] for item in items}, spec)


def extract(
    home: Home,
    dataset: str,
    encoder: EncoderConfig,
    catalogue: Catalogue,
    rows: np.ndarray,
    settings: PrepareConfig | None = None,
    open_encoding: OpenEncoding = LocalEncoding,
) -> ExtractionResult:
    """Make a data set's feature store of an encoder whole and current.

    Args:
        home: the root of all data.
        dataset: name of the data set.
        encoder: the frozen encoder; loaded only if there is work.
        catalogue: the data set's items.
        rows: catalogue rows that need features.
        settings: batch size, precision, processes.
        open_encoding: loads the encoder where it is to run.

    Raises:
        FeatureStoreError: the store exists and is unreadable or of another encoder, a picture no longer decodes, or
            the disk is too small.
        MissingDataError: the encoder cannot be had.
        DataError: it cannot be used, or a process or task that worked for it was lost.
        NonFiniteError: the encoder gave NaN, or values that float16 does not hold.
    """
    folder, settings = home.dataset(dataset), settings or PrepareConfig()
    path, digests, spec = wanted_features(home, dataset, encoder, catalogue, rows)
    inputs = Inputs(folder, dict(zip(*catalogue, strict=True)), digests)
    return fill_store(
        path,
        {"encoder": spec, "model": encoder.model},
        digests,
        lambda: open_encoding(encoder, inputs, settings),
        f"{modality_of(encoder)} features",
        settings.batch_size,
        settings.precision,
    )


def fill_store(
    path: Path,
    what: Mapping[str, Any],
    wanted: Mapping[str, bytes],
    open_encoding: Callable[[], Encoding],
    label: str,
    batch_size: int,
    precision: str = "auto",
) -> ExtractionResult:
    """Compute the records that a store lacks or holds of another source; commit after every batch.

    Args:
        path: the store; made if missing.
        what: description of the encoder for the manifest; under ``encoder`` its specification.
        wanted: source digest by item id, in the order of computation.
        open_encoding: loads the encoder; called only if there is work.
        label: word for the progress bar.
        batch_size: items encoded at once.
        precision: the arithmetic that was asked for.

    Returns:
        What was done. A run that is cut off keeps its finished batches; the next one goes on from there. Once the
        encoder has become another one, or another precision is asked for, everything is computed again, in a file
        beside the store that takes its place when it is whole.
    """
    former, pending = pending_items(path, wanted, what["encoder"], precision)
    successor = path.with_name(f"{path.name}.next")
    if former and not pending:
        _remove(successor)
        if not former["complete"] or former["items"] != len(wanted):
            with RecordFile(path, write=True) as store:
                store.write({}, former | {"complete": True, "items": len(wanted)})
        return ExtractionResult(path, 0, len(wanted), 0.0, "")
    encoding = open_encoding()
    manifest = {
        **what,
        "format": FORMAT,
        "width": encoding.width,
        "max_tokens": encoding.max_tokens,
        "commit": encoding.commit,
        "items": len(wanted),
        "complete": False,
        "precisions": [encoding.precision],
        "items_per_second": None,
    }
    if former is None or not _is_outdated(former, manifest, precision):
        _remove(successor)
        seconds = _filled(path, former, pending, manifest, encoding, wanted, label, batch_size)
        return ExtractionResult(path, len(pending), len(wanted), seconds, encoding.where)
    begun, pending = pending_items(successor, wanted, what["encoder"], precision)
    if begun is not None and _is_outdated(begun, manifest, precision):
        _remove(successor)
        begun, pending = None, list(wanted)
    seconds = _filled(successor, begun, pending, manifest, encoding, wanted, label, batch_size)
    os.replace(successor, path)
    sync(path.parent)
    _remove(successor)
    return ExtractionResult(path, len(pending), len(wanted), seconds, encoding.where)


def _is_outdated(former: dict[str, Any], manifest: dict[str, Any], precision: str) -> bool:
    """Say whether what is held may not lie beside what would come: of another commit, or not of the precision asked.

    A hub model without a revision may have moved on.
    """
    return has_other_precision(former, precision) or any(
        former[name] != manifest[name] for name in ("commit", "width", "max_tokens")
    )


def _remove(store: Path) -> None:
    for path in (store, store.with_name(f"{store.name}-lock")):
        path.unlink(missing_ok=True)


def pending_items(
    path: Path, wanted: Mapping[str, bytes], encoder: dict[str, Any], precision: str = "auto"
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return a store's manifest (None: it holds nothing yet) and the items to compute: new or of another source.

    Args:
        path: the store.
        wanted: source digest by item id.
        encoder: whose features they must be, from ``encoder_spec``.
        precision: the arithmetic that was asked for; all items of a store of another one are to compute.

    Raises:
        FeatureStoreError: the file is unreadable, another kind of store, or another encoder's; says what to do.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None, list(wanted)
    try:
        with RecordFile(path) as store:
            if store.is_empty:
                return None, list(wanted)
            manifest = checked_manifest(store)
            if problem := other_encoder(manifest, encoder):
                raise FeatureStoreError(f"{path}: {problem}")
            held = {} if has_other_precision(manifest, precision) else held_digests(store)
    except FeatureStoreError as error:
        raise FeatureStoreError(f"{error}; delete it and run: {prepare_command(path.parent.name)}") from error
    return manifest, [item for item in wanted if held.get(item) != wanted[item]]


def _filled(
    path: Path,
    former: dict[str, Any] | None,
    pending: Sequence[str],
    manifest: dict[str, Any],
    encoding: Encoding,
    wanted: Mapping[str, bytes],
    label: str,
    batch_size: int,
) -> float:
    """Add what is pending to a store; return the seconds of the computation."""
    tokens = encoding.count_tokens(pending)
    check_space(path, tokens * encoding.width * 2 + len(pending) * (HEADER_BYTES + _PAGE_BYTES))
    if former is not None:
        manifest = manifest | {"precisions": sorted({*former["precisions"], encoding.precision})}
    with RecordFile(path, write=True) as store:
        store.write({}, manifest)  # before the first batch, so that a kill in it leaves a store of ours
        started = time.perf_counter()
        _write_batches(store, encoding, pending, wanted, label, batch_size)
        seconds = time.perf_counter() - started
        rate = len(pending) / max(seconds, 1e-3)
        store.write({}, manifest | {"complete": True, "items_per_second": rate})
    return seconds


def _write_batches(
    store: RecordFile,
    encoding: Encoding,
    pending: Sequence[str],
    wanted: Mapping[str, bytes],
    label: str,
    batch_size: int,
) -> None:
    batches = [list(pending[start : start + batch_size]) for start in range(0, len(pending), batch_size)]
    done = 0
    with closing(encoding.run(batches)) as results, meter(label, len(pending)) as tell:
        for items, features in zip(batches, results, strict=True):
            records: dict[str, bytes] = {}
            for item, array in zip(items, features, strict=True):
                records |= feature_records(item, wanted[item], array)
            store.write(records)
            done += len(items)
            tell(done)
