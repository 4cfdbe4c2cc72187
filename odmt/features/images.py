"""The image store of a data set: every needed picture's encoded bytes as they came, checked once by decoding them.

``images.lmdb`` appears only when every item has a whole picture. Otherwise ``bad_images.tsv`` lists all that have none.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from odmt.commands import progress
from odmt.data.interactions import prepare_command
from odmt.errors import DataError, FeatureStoreError, MissingDataError
from odmt.features.pictures import decode
from odmt.features.records import RecordFile
from odmt.files import write_atomically

IMAGES_FILE = "images.lmdb"
BAD_IMAGES_FILE = "bad_images.tsv"
FORMAT = "odmt-images-1"
DIGEST_BYTES = 16
_BATCH_BYTES = 64 * 2**20


class ImageStoreResult(NamedTuple):
    """What building the image store did.

    Attributes:
        num_images: pictures in the store.
        size_bytes: size of their encoded bytes.
        built: False if the store was up to date already.
    """

    num_images: int
    size_bytes: int
    built: bool


def digest_of(content: bytes | memoryview) -> bytes:
    """Return the 16-byte digest of a source's content, by which stale features are told."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def build_image_store(folder: Path, files: Mapping[str, Sequence[Path]], item_ids: Sequence[str]) -> ImageStoreResult:
    """Store the pictures of some items, or find that nothing changed.

    Args:
        folder: the data set's folder; gets ``images.lmdb``.
        files: picture files by item id, from ``picture_files``.
        item_ids: the items that need a picture.

    Raises:
        DataError: pictures are missing, doubled or broken; all are listed in ``bad_images.tsv`` and an
            ``images.lmdb`` is neither made nor changed.
    """
    stored = _stored_digests(folder / IMAGES_FILE)
    digests: dict[str, str] = {}
    bad: list[tuple[str, str, str]] = []
    size_bytes = 0
    for item in progress(item_ids, len(item_ids), "checking images"):
        found = files.get(item, ())
        if len(found) != 1:
            reason = f"has {len(found)} pictures" if found else "has no picture"
            bad.append((item, ", ".join(str(path) for path in found), reason))
            continue
        try:
            content = _content(found[0])
            digests[item] = digest_of(content).hex()
            size_bytes += len(content)
            if stored.get(item) != digests[item]:
                decode(content)
        except DataError as error:
            bad.append((item, str(found[0]), str(error)))
    if bad:
        raise _bad_images(folder, bad, len(item_ids))
    (folder / BAD_IMAGES_FILE).unlink(missing_ok=True)
    if stored == digests:
        return ImageStoreResult(len(digests), size_bytes, built=False)
    _write_store(folder, {item: files[item][0] for item in digests}, digests)
    return ImageStoreResult(len(digests), size_bytes, built=True)


def image_digests(folder: Path) -> dict[str, bytes]:
    """Return the content digest of every stored picture by item id.

    Raises:
        MissingDataError: there is no image store.
        FeatureStoreError: it is unreadable.
    """
    path = folder / IMAGES_FILE
    if not path.exists():
        raise MissingDataError(f"{path}: does not exist; run: {prepare_command(folder.name)}")
    return {item: bytes.fromhex(digest) for item, digest in _read_digests(path).items()}


def read_images(store: RecordFile, item_ids: Sequence[str]) -> list[Image.Image]:
    """Decode some stored pictures.

    Raises:
        FeatureStoreError: an item has no picture in the store, or it no longer decodes.
    """
    images = []
    with store.view() as view:
        for item in item_ids:
            content = view.get(item)
            if content is None:
                raise FeatureStoreError(f"{store.path}: holds no picture of item {item!r}")
            try:
                images.append(decode(bytes(content)))
            except DataError as error:
                raise FeatureStoreError(f"{store.path}: picture of item {item!r} {error}") from error
    return images


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error


def _stored_digests(path: Path) -> dict[str, str]:
    return _read_digests(path) if path.exists() else {}


def _read_digests(path: Path) -> dict[str, str]:
    again = f"delete it and run: {prepare_command(path.parent.name)}"
    try:
        with RecordFile(path) as store:
            manifest = store.manifest()
    except FeatureStoreError as error:
        raise FeatureStoreError(f"{error}; {again}") from error
    if manifest.get("format") != FORMAT:
        raise FeatureStoreError(f"{path}: has format {manifest.get('format')!r}, expected {FORMAT!r}; {again}")
    digests: dict[str, str] = manifest["digests"]
    return digests


def _bad_images(folder: Path, bad: list[tuple[str, str, str]], total: int) -> DataError:
    path = folder / BAD_IMAGES_FILE
    write_atomically(path, "".join("\t".join(_flat(column) for column in row) + "\n" for row in bad).encode())
    item, file, reason = bad[0]
    first = f"{file}: {reason}" if file else f"item {item!r} {reason}"
    more = f"; {len(bad)} of {total} items are like that, all" if len(bad) > 1 else ";"
    return DataError(f"{first}{more} listed in {path}; repair the pictures, or leave the items out of the behaviours")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _write_store(folder: Path, files: Mapping[str, Path], digests: dict[str, str]) -> None:
    manifest = {"format": FORMAT, "count": len(files), "digests": digests, "bad": []}
    with tempfile.TemporaryDirectory(prefix=".images-", dir=folder) as temporary:
        path = Path(temporary) / IMAGES_FILE
        with RecordFile(path, write=True) as store:
            for batch in _batches(files):
                for item, content in batch.items():
                    if digest_of(content).hex() != digests[item]:
                        raise DataError(f"{files[item]}: changed while it was read; run the same command again")
                store.write(batch)
            store.write({}, manifest)
        path.replace(folder / IMAGES_FILE)


def _batches(files: Mapping[str, Path]) -> Iterator[dict[str, bytes]]:
    batch: dict[str, bytes] = {}
    size = 0
    for item in sorted(files):
        batch[item] = files[item].read_bytes()
        size += len(batch[item])
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch
