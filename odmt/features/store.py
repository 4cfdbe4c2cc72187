"""Feature stores: one LMDB file a data set, modality and encoder. ``shards.py`` reads the features back.

A record is ``16 bytes digest of the source content | 4 bytes CRC-32 of the payload | payload``; the payload is the
float16 features of the item's real tokens, ``(T_i, D)``, little endian. The key is the external item id. The digests
stand a second time under a NUL, a ``d`` and the id, side by side, so that what is missing is found without reading all.
"""

import hashlib
import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from odmt.config import ImageEncoderConfig, TextEncoderConfig, names_folder, to_mapping
from odmt.data.interactions import Catalogue, prepare_command
from odmt.errors import FeatureStoreError, MissingDataError, NonFiniteError
from odmt.features.images import DIGEST_BYTES, IMAGES_FILE, digest_of, image_digests
from odmt.features.records import RecordFile
from odmt.home import Home

EncoderConfig = TextEncoderConfig | ImageEncoderConfig

FORMAT = "odmt-features-2"
CRC_BYTES = 4
HEADER_BYTES = DIGEST_BYTES + CRC_BYTES
_DIGEST_INDEX = "\0d"
_MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")


def modality_of(encoder: EncoderConfig) -> str:
    """Return ``text`` or ``image``."""
    return "text" if isinstance(encoder, TextEncoderConfig) else "image"


def named_folder(encoder: EncoderConfig, dataset_folder: Path) -> Path | None:
    """Return the folder that a model setting names, whether or not it is there; None for a hub name."""
    if not names_folder(encoder.model):
        return None
    return dataset_folder / encoder.model if encoder.model.startswith("./") else Path(encoder.model).expanduser()


def model_folder(encoder: EncoderConfig, dataset_folder: Path) -> Path | None:
    """Return the folder that a model setting means, or None for a hub name.

    Raises:
        MissingDataError: there is no model in that folder.
    """
    folder = named_folder(encoder, dataset_folder)
    if folder is not None and not (folder / "config.json").is_file():
        kind = modality_of(encoder)
        raise MissingDataError(
            f"features.{kind}.model: {encoder.model!r} is not there: put a Hugging Face folder at {folder}, "
            f"or make tiny encoders: {prepare_command(dataset_folder.name)} --tiny-encoders"
        )
    return folder


def encoder_spec(encoder: EncoderConfig, dataset_folder: Path) -> dict[str, Any]:
    """Return everything that decides an encoder's features; a folder counts by its content, not by its place."""
    folder = model_folder(encoder, dataset_folder)
    spec = to_mapping(encoder) | {"modality": modality_of(encoder), "format": FORMAT}
    if folder is not None:
        spec |= {"model": f"folder:{_folder_digest(folder)}", "revision": None}
    return spec


def feature_store_path(home: Home, dataset: str, encoder: EncoderConfig) -> Path:
    """Return where a data set's features from an encoder lie, whether or not they exist.

    Raises:
        MissingDataError: the encoder is a folder that is not there, so that its content cannot be told.
    """
    spec = encoder_spec(encoder, home.dataset(dataset))
    digest = hashlib.blake2b(json.dumps(spec, sort_keys=True).encode(), digest_size=8).hexdigest()
    return home.features(dataset) / f"{modality_of(encoder)}-{digest}.lmdb"


def source_digests(home: Home, dataset: str, encoder: EncoderConfig, catalogue: Catalogue) -> dict[str, bytes]:
    """Return the digest of what each item's features are made from: its title, or its stored picture.

    Raises:
        MissingDataError: there is no image store.
    """
    if isinstance(encoder, ImageEncoderConfig):
        return image_digests(home.dataset(dataset))
    return {item: digest_of(title.encode()) for item, title in zip(*catalogue, strict=True)}


def items_digest(home: Home, dataset: str, encoder: EncoderConfig, catalogue: Catalogue, rows: np.ndarray) -> str:
    """Return a hex digest over what some items' features are made from: their titles or stored pictures, in order.

    Args:
        home: the root of all data.
        dataset: name of the data set.
        encoder: tells the modality only; no encoder is loaded.
        catalogue: the data set's items.
        rows: catalogue rows that count.

    Raises:
        MissingDataError: there is no image store; names the command.
        FeatureStoreError: the image store is unreadable, or lacks a picture of one of the items.
    """
    used = Catalogue([catalogue.item_ids[row] for row in rows], [catalogue.titles[row] for row in rows])
    digests = source_digests(home, dataset, encoder, used)
    total = hashlib.sha256()
    for item in used.item_ids:
        if item not in digests:
            path = home.dataset(dataset) / IMAGES_FILE
            raise FeatureStoreError(f"{path}: holds no picture of item {item!r}; run: {prepare_command(dataset)}")
        total.update(digests[item])
    return total.hexdigest()[:16]


def open_features(path: Path) -> RecordFile:
    """Open a whole feature store for reading.

    Raises:
        FeatureStoreError: it is unreadable, cut off, or another kind of file.
    """
    store = RecordFile(path)
    try:
        if not checked_manifest(store)["complete"]:
            raise FeatureStoreError(f"{path}: extraction was cut off")
    except FeatureStoreError:
        store.close()
        raise
    return store


def feature_records(item: str, digest: bytes, features: np.ndarray) -> dict[str, bytes]:
    """Return the records of one item.

    Args:
        item: its id.
        digest: of the title or picture that the features were made from.
        features: float16 ``(T, D)``.

    Raises:
        NonFiniteError: a value is NaN, or more than float16 holds.
    """
    if not np.isfinite(features).all():
        raise NonFiniteError(
            f"features of item {item!r} are not finite numbers that float16 holds; try --set prepare.precision=fp32, "
            "or another layer"
        )
    payload = np.ascontiguousarray(features, dtype="<f2").tobytes()
    return {item: digest + zlib.crc32(payload).to_bytes(CRC_BYTES, "little") + payload, _DIGEST_INDEX + item: digest}


def held_digests(store: RecordFile) -> dict[str, bytes]:
    """Return what each item's features were made from."""
    with store.view() as view:
        return {key.removeprefix(_DIGEST_INDEX): bytes(value) for key, value in view.scan(_DIGEST_INDEX)}


def held_manifest(path: Path) -> dict[str, Any] | None:
    """Return a store's manifest; None if there is no store, or none that can be read: loading says what is wrong."""
    try:
        with RecordFile(path) as store:
            return checked_manifest(store)
    except FeatureStoreError:
        return None


def other_encoder(manifest: dict[str, Any], spec: dict[str, Any]) -> str:
    """Return in words of which other encoder a store's features are; empty if they are of this one.

    Args:
        manifest: the store's.
        spec: from ``encoder_spec``.
    """
    held = manifest.get("encoder")
    if held == spec:
        return ""
    known = held if isinstance(held, dict) else {}
    different = [f"{key} {known.get(key)!r} instead of {spec[key]!r}" for key in spec if known.get(key) != spec[key]]
    return f"holds features of another encoder ({', '.join(different) or 'settings that this version does not know'})"


def has_other_precision(manifest: dict[str, Any], asked: str) -> bool:
    """Say whether features were computed in another arithmetic than the one asked for; ``auto`` takes any."""
    return asked != "auto" and manifest["precisions"] != [asked]


def checked_manifest(store: RecordFile) -> dict[str, Any]:
    """Return a feature store's manifest.

    Raises:
        FeatureStoreError: the file is another kind of store.
    """
    manifest = store.manifest()
    if manifest.get("format") != FORMAT:
        raise FeatureStoreError(f"{store.path}: has format {manifest.get('format')!r}, expected {FORMAT!r}")
    return manifest


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model's folder that decide its features, sorted."""
    return sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()})


def _folder_digest(folder: Path) -> str:
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in model_files(folder)]
    return _content_digest(tuple(stamps))


@lru_cache(maxsize=32)
def _content_digest(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Digest the files; cached a process, because a folder may hold half a gigabyte."""
    digest = hashlib.blake2b(digest_size=16)
    for name, size, _ in stamps:
        digest.update(f"{Path(name).name}\0{size}\0".encode())
        with open(name, "rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()
