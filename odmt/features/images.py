"""The image store of a data set: every needed picture's encoded bytes as they came, and what is known of each.

``images.lmdb`` has two records an item: under its id the picture, and under a NUL, an ``i`` and its id the digest of
the picture, the stamp of where it came from, and, of an item without a whole picture, the reason. With the policy
``blank`` such items count as having a grey picture, with ``drop`` they are not in the data set.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from odmt.data.interactions import prepare_command
from odmt.errors import FeatureStoreError, MissingDataError
from odmt.features.pictures import encode_png
from odmt.features.records import RecordFile, View

IMAGES_FILE = "images.lmdb"
FORMAT = "odmt-images-2"
DIGEST_BYTES = 16
Policy = Literal["fail", "drop", "blank"]
_INDEX = "\0i"
_NEUTRAL = 128  # the grey of a blank picture, in the middle of 0 to 255


class Entry(NamedTuple):
    """What is known of an item's picture.

    Attributes:
        digest: of its bytes; zeros if there is none.
        stamp: of where it came from, by which a changed one is told.
        reason: why there is no whole picture; empty if there is one.
    """

    digest: bytes
    stamp: str
    reason: str = ""


def digest_of(content: bytes | memoryview) -> bytes:
    """Return the 16-byte digest of a source's content, by which stale features are told."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


BLANK_DIGEST = digest_of(b"odmt: an item without a picture")
NO_DIGEST = bytes(DIGEST_BYTES)


@lru_cache(maxsize=1)
def blank_picture() -> bytes:
    """Return the grey picture of items that have none."""
    return encode_png(np.full((8, 8, 3), _NEUTRAL, dtype=np.uint8))


def read_entries(store: RecordFile) -> dict[str, Entry]:
    """Return what an image store knows of every item."""
    entries: dict[str, Entry] = {}
    with store.view() as view:
        for key, value in view.scan(_INDEX):
            stamp, _, reason = bytes(value[DIGEST_BYTES:]).decode().partition("\n")
            entries[key.removeprefix(_INDEX)] = Entry(bytes(value[:DIGEST_BYTES]), stamp, reason)
    return entries


def write_pictures(store: RecordFile, entries: Mapping[str, Entry], contents: Mapping[str, bytes]) -> None:
    """Add or replace items in one transaction; the pictures of those without content go.

    Args:
        store: open for writing.
        entries: by item id.
        contents: the encoded pictures of those that have one.
    """
    index = {_INDEX + item: entry.digest + f"{entry.stamp}\n{entry.reason}".encode() for item, entry in entries.items()}
    store.write({**index, **contents}, delete=[item for item in entries if item not in contents])


def forget_pictures(store: RecordFile, items: Iterable[str]) -> None:
    """Delete items that are no longer needed."""
    store.write({}, delete=[key for item in items for key in (item, _INDEX + item)])


def image_digests(folder: Path) -> dict[str, bytes]:
    """Return the digest of every picture that counts, by item id: blank ones too where that is the policy.

    Raises:
        MissingDataError: there is no image store.
        FeatureStoreError: it is unreadable, or its making was cut off.
    """
    path = folder / IMAGES_FILE
    with open_images(folder) as store:
        manifest = store.manifest()
        if not manifest["complete"]:
            raise FeatureStoreError(f"{path}: is not finished; run: {prepare_command(folder.name)}")
        is_blank = manifest["policy"] == "blank"
        entries = read_entries(store)
    counting = {item: entry for item, entry in entries.items() if not entry.reason or is_blank}
    return {item: BLANK_DIGEST if entry.reason else entry.digest for item, entry in counting.items()}


def open_images(folder: Path) -> RecordFile:
    """Open a data set's image store for reading.

    Raises:
        MissingDataError: there is none.
        FeatureStoreError: it is unreadable, empty, or made by another version; says what to do.
    """
    path = folder / IMAGES_FILE
    if not path.exists():
        raise MissingDataError(f"{path}: does not exist; run: {prepare_command(folder.name)}")
    again = f"delete it and run: {prepare_command(folder.name)}"
    try:
        store = RecordFile(path)
    except FeatureStoreError as error:
        raise FeatureStoreError(f"{error}; {again}") from error
    found = None if store.is_empty else store.manifest().get("format")
    if found != FORMAT:
        store.close()
        what = f"has format {found!r}, expected {FORMAT!r}" if found else "is empty"
        raise FeatureStoreError(f"{path}: {what}; {again}")
    return store


def holds_nothing(folder: Path) -> bool:
    """Say whether there is no image store yet, or one whose writer was stopped before its first batch."""
    path = folder / IMAGES_FILE
    if not path.exists() or path.stat().st_size == 0:
        return True
    try:
        with RecordFile(path) as store:
            return store.is_empty
    except FeatureStoreError:
        return False


def encoded_pictures(view: View, path: Path, items: Sequence[str], digests: Mapping[str, bytes]) -> list[bytes]:
    """Return the bytes of some items' pictures.

    Args:
        view: of the image store.
        path: of the image store, for the sentence.
        items: whose.
        digests: from ``image_digests``: tells which are blank.

    Raises:
        FeatureStoreError: an item has no picture in the store.
    """
    contents = []
    for item in items:
        content = blank_picture() if digests.get(item) == BLANK_DIGEST else view.get(item)
        if content is None:
            raise FeatureStoreError(f"{path}: holds no picture of item {item!r}")
        contents.append(bytes(content))
    return contents
