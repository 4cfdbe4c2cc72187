"""Fill the image store of a data set: every picture is read and decoded once, and kept as it came.

Each batch is kept as soon as it is done, so that a stopped run goes on; a picture whose file has not changed is not
read again. Items without a whole picture are recorded with the reason and listed in ``bad_images.tsv``.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from odmt.commands import meter
from odmt.errors import DataError
from odmt.features.images import (
    FORMAT,
    IMAGES_FILE,
    NO_DIGEST,
    Entry,
    Policy,
    digest_of,
    forget_pictures,
    holds_nothing,
    open_images,
    read_entries,
    write_pictures,
)
from odmt.features.picture_places import Located, Place, close_places, content_of
from odmt.features.pictures import decode
from odmt.features.records import RecordFile, check_space
from odmt.features.workers import ordered_map, worker_count
from odmt.files import write_atomically

BAD_IMAGES_FILE = "bad_images.tsv"
BATCH_ITEMS = 256
BATCH_BYTES = 32 * 2**20


class ImageStoreResult(NamedTuple):
    """What filling the image store did.

    Attributes:
        num_images: whole pictures in the store.
        bad: why an item has none, by item id.
        read: pictures that were read now.
        changed: False if everything was up to date.
    """

    num_images: int
    bad: dict[str, str]
    read: int
    changed: bool


class _Read(NamedTuple):
    """One picture, read and decoded."""

    content: bytes
    reason: str


def fill_image_store(
    folder: Path, items: Sequence[str], located: Located, policy: Policy, workers: int | None = None, hint: str = ""
) -> ImageStoreResult:
    """Store the pictures of some items, or find that nothing changed.

    Args:
        folder: the data set's folder; gets ``images.lmdb``.
        items: the items that need a picture.
        located: where their pictures are.
        policy: what becomes of items without a whole one.
        workers: processes that decode; None = one a CPU, eight at most, and none for a few pictures.
        hint: what else may help items without a picture; ends the sentence that refuses them.

    Raises:
        DataError: the policy is ``fail`` and there are items without a whole picture, or no item has one; all are
            listed in ``bad_images.tsv``. Whole pictures are kept, those of before too.
        FeatureStoreError: the store is unreadable, or the disk is too small.
    """
    path = folder / IMAGES_FILE
    manifest, known = _known(folder)
    absent = {item: Entry(NO_DIGEST, "", reason) for item, reason in located.reasons.items()}
    due = {item: place for item, place in located.places.items() if known.get(item, _NOTHING).stamp != place.stamp}
    updates = {item: entry for item, entry in absent.items() if known.get(item) != entry}
    superfluous = known.keys() - set(items)
    wanted = {"format": FORMAT, "complete": True, "policy": policy, "items": len(items)}
    if due or updates or superfluous or manifest != wanted:
        check_space(path, _bytes_of(due.values()))
        whole = {item for item, entry in known.items() if not entry.reason}
        with RecordFile(path, write=True) as store:
            if not manifest.get("complete"):
                store.write({}, wanted | {"complete": False})
            read = _store_pictures(store, due, whole, workers)
            updates |= {item: read[item] for item in whole & read.keys() if read[item].reason}
            known |= read | updates
            bad = _told(folder, items, known, located.places)
            if len(bad) == len(items) or (bad and policy == "fail"):
                raise DataError(_refusal(folder, items, bad, located.places) + hint)
            store.write({}, wanted | {"complete": False})
            write_pictures(store, updates, {})
            forget_pictures(store, superfluous)
            store.write({}, wanted)
        return ImageStoreResult(len(items) - len(bad), bad, len(due), changed=True)
    bad = _told(folder, items, known, located.places)
    return ImageStoreResult(len(items) - len(bad), bad, 0, changed=False)


_NOTHING = Entry(NO_DIGEST, "")


def _known(folder: Path) -> tuple[dict[str, object], dict[str, Entry]]:
    if holds_nothing(folder):
        return {}, {}
    with open_images(folder) as store:
        return store.manifest(), read_entries(store)


def _store_pictures(
    store: RecordFile, due: Mapping[str, Place], whole: Collection[str], workers: int | None
) -> dict[str, Entry]:
    """Read, check and keep pictures, a batch at a time, in the order of their keys; no bad one in place of a whole."""
    order = sorted(due, key=str.encode)
    found: dict[str, Entry] = {}
    batch: dict[str, Entry] = {}
    contents: dict[str, bytes] = {}
    results = ordered_map(_read_picture, (due[item] for item in order), worker_count(workers, len(order)))
    with ExitStack() as stack:
        stack.callback(close_places)
        stack.enter_context(closing(results))
        tell = stack.enter_context(meter("images", len(order)))
        for count, (item, read) in enumerate(zip(order, results, strict=True), start=1):
            if not read.reason:
                contents[item] = read.content
            digest = digest_of(read.content) if not read.reason else NO_DIGEST
            found[item] = Entry(digest, due[item].stamp, read.reason)
            if not read.reason or item not in whole:
                batch[item] = found[item]
            if len(batch) >= BATCH_ITEMS or sum(map(len, contents.values())) >= BATCH_BYTES or count == len(order):
                write_pictures(store, batch, contents)
                batch, contents = {}, {}
                tell(count)
    return found


def _read_picture(place: Place) -> _Read:
    """Read and decode one picture; runs in a worker."""
    try:
        content = content_of(place)
        decode(content)
    except DataError as error:
        return _Read(b"", str(error))
    return _Read(content, "")


def _bytes_of(places: Collection[Place]) -> int:
    """Return at most how many bytes pictures will take: files as they are, records no more than their LMDB."""
    files = [place.num_bytes for place in places if place.kind == "file"]
    lmdbs = {place.path: place.num_bytes for place in places if place.kind == "record"}
    return sum(files) + sum(lmdbs.values())


def _told(
    folder: Path, items: Sequence[str], known: Mapping[str, Entry], places: Mapping[str, Place]
) -> dict[str, str]:
    """Return the items without a whole picture, and keep the list of them up to date."""
    bad = {item: known[item].reason for item in items if known[item].reason}
    path = folder / BAD_IMAGES_FILE
    if not bad:
        path.unlink(missing_ok=True)
        return bad
    rows = [(item, _path(item, places), reason) for item, reason in bad.items()]
    text = "".join("\t".join(" ".join(column.split()) for column in row) + "\n" for row in rows)
    content = text.encode(errors="backslashreplace")  # a path may hold bytes that are no text
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)
    return bad


def _path(item: str, places: Mapping[str, Place]) -> str:
    """Return where an item's picture lies; empty if there is none, or its source is gone."""
    return places[item].path if item in places else ""


def _refusal(folder: Path, items: Sequence[str], bad: Mapping[str, str], places: Mapping[str, Place]) -> str:
    item, reason = next(iter(bad.items()))
    path = _path(item, places)
    first = f"{path}: {reason}" if path else f"item {item!r}: {reason}" if item in places else f"item {item!r} {reason}"
    listed = f"{len(bad)} of {len(items)} items are like that, listed in {folder / BAD_IMAGES_FILE}"
    if len(bad) == len(items):
        return f"{first}; {listed}: no item has a whole picture"
    return (
        f"{first}; {listed}; repair the pictures, or let such items go (--set prepare.missing_images=drop) or have a "
        "grey picture (=blank)"
    )
