"""Resumable extraction: what a feature store lacks or holds of an older source is computed, the rest left alone."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Resampling

from odmt.commands import progress
from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.data.interactions import Catalogue, prepare_command
from odmt.errors import FeatureStoreError, NonFiniteError
from odmt.features.images import DIGEST_BYTES, IMAGES_FILE, image_digests, read_images
from odmt.features.records import RecordFile
from odmt.features.store import (
    CRC_BYTES,
    FORMAT,
    EncoderConfig,
    checked_manifest,
    encoder_spec,
    feature_store_path,
    modality_of,
    source_digests,
)
from odmt.home import Home

BATCH_ITEMS = 64
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class Loaded(NamedTuple):
    """A loaded encoder, as far as extraction needs to know it.

    Attributes:
        encode: item ids -> float16 ``(T_i, D)`` features of each.
        width: D.
        max_tokens: largest possible T_i.
        commit: hub commit of the weights, None for a folder.
    """

    encode: Callable[[Sequence[str]], list[np.ndarray]]
    width: int
    max_tokens: int
    commit: str | None


class ExtractionResult(NamedTuple):
    """What an extraction did.

    Attributes:
        path: the store.
        extracted: items computed now.
        total: items that the data set needs.
    """

    path: Path
    extracted: int
    total: int


def extract(
    home: Home, dataset: str, encoder: EncoderConfig, catalogue: Catalogue, rows: np.ndarray
) -> ExtractionResult:
    """Make a data set's feature store of an encoder whole and current.

    Args:
        home: the root of all data.
        dataset: name of the data set.
        encoder: the frozen encoder; loaded only if there is work.
        catalogue: the data set's items.
        rows: catalogue rows that need features.

    Raises:
        FeatureStoreError: the store exists and is unreadable.
        NonFiniteError: the encoder gave NaN, or values that float16 does not hold.
    """
    folder = home.dataset(dataset)
    path = feature_store_path(home, dataset, encoder)
    titles = dict(zip(*catalogue, strict=True))
    digests = source_digests(home, dataset, encoder, catalogue)
    wanted: dict[str, bytes] = {}
    for row in rows:
        item = catalogue.item_ids[row]
        if item not in digests:
            raise FeatureStoreError(f"{folder / IMAGES_FILE}: holds no picture of item {item!r}; run the images stage")
        wanted[item] = digests[item]

    # Titles of like length together need less padding.
    order = sorted(wanted, key=lambda item: (len(titles[item]), item))
    what = {"encoder": encoder_spec(encoder, folder), "model": encoder.model}
    if isinstance(encoder, ImageEncoderConfig):
        order = sorted(wanted)
    label = f"{modality_of(encoder)} features"
    try:
        in_order = {item: wanted[item] for item in order}
        extracted = fill_store(path, what, in_order, lambda: _load(encoder, folder, titles), label)
    except FeatureStoreError as error:
        raise FeatureStoreError(f"{error}; delete it and run: {prepare_command(dataset)}") from error
    return ExtractionResult(path, extracted, len(wanted))


def _load(encoder: EncoderConfig, folder: Path, titles: Mapping[str, str]) -> Loaded:
    """Load an encoder and tell it where the items' titles or pictures are."""
    import torch

    from odmt.features.encoders import ImageEncoder, TextEncoder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(encoder, TextEncoderConfig):
        text = TextEncoder(encoder, folder, device)
        return Loaded(lambda ids: text.encode([titles[item] for item in ids]), text.width, text.max_tokens, text.commit)
    image = ImageEncoder(encoder, folder, device)
    digests = image_digests(folder)
    size = (image.image_size, image.image_size)

    def encode(ids: Sequence[str]) -> list[np.ndarray]:
        with RecordFile(folder / IMAGES_FILE) as store:
            pictures = read_images(store, ids)
        pixels = [np.asarray(picture.resize(size, Resampling.BILINEAR)) for picture in pictures]
        return image.encode(pixels, [digests[item] for item in ids])

    return Loaded(encode, image.width, image.max_tokens, image.commit)


def fill_store(
    path: Path, what: Mapping[str, Any], wanted: Mapping[str, bytes], load: Callable[[], Loaded], label: str
) -> int:
    """Compute the records that a store lacks or holds of another source; commit after every batch.

    Args:
        path: the store; made if missing.
        what: description of the encoder for the manifest.
        wanted: source digest by item id, in the order of computation.
        load: gives the encoder; called only if there is work.
        label: word for the progress bar.

    Returns:
        How many were computed. A run that is cut off keeps its finished batches; the next one goes on from there,
        unless the encoder has become another one since: then everything is computed again.
    """
    former, pending = _former(path, wanted)
    if former and not pending:
        if not former["complete"] or former["items"] != len(wanted):
            with RecordFile(path, write=True) as store:
                store.write({}, former | {"complete": True, "items": len(wanted)})
        return 0
    loaded = load()
    manifest = {
        **what,
        "format": FORMAT,
        "width": loaded.width,
        "max_tokens": loaded.max_tokens,
        "commit": loaded.commit,
        "items": len(wanted),
        "complete": False,
    }
    # A hub model without a revision may have moved on: features of two commits never lie side by side.
    mixed = former is not None and any(former[name] != manifest[name] for name in ("commit", "width", "max_tokens"))
    if mixed:
        pending = list(wanted)
    starts = range(0, len(pending), BATCH_ITEMS)
    with RecordFile(path, write=True) as store:
        store.write(
            {}, manifest, drop_others=mixed
        )  # before the first batch, so that a kill in it leaves a store of ours
        for start in progress(starts, len(starts), label):
            items = pending[start : start + BATCH_ITEMS]
            features = loaded.encode(items)
            records = {item: _record(item, wanted[item], array) for item, array in zip(items, features, strict=True)}
            store.write(records)
        store.write({}, manifest | {"complete": True})
    return len(pending)


def _former(path: Path, wanted: Mapping[str, bytes]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return a store's manifest (None: it holds nothing yet) and the items to compute: new or of another source."""
    if not path.exists() or path.stat().st_size == 0:
        return None, list(wanted)
    with RecordFile(path) as store:
        if store.is_empty:
            return None, list(wanted)
        manifest = checked_manifest(store)
        with store.view() as view:
            return manifest, [item for item in wanted if view.head(item, DIGEST_BYTES) != wanted[item]]


def _record(item: str, digest: bytes, features: np.ndarray) -> bytes:
    largest = float(np.abs(features).max(initial=0.0))
    if not largest <= _LARGEST_FLOAT16:  # also true of NaN
        raise NonFiniteError(f"features of item {item!r} reach {largest}; float16 holds up to {_LARGEST_FLOAT16:.0f}")
    payload = np.ascontiguousarray(features, dtype="<f2").tobytes()
    return digest + zlib.crc32(payload).to_bytes(CRC_BYTES, "little") + payload
