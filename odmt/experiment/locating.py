"""Where the pictures of an import lie, once those that are to be fetched have been."""

from collections.abc import Mapping
from pathlib import Path

from odmt.config import PrepareConfig
from odmt.data.imported import Imported
from odmt.data.interactions import prepare_command
from odmt.errors import ConfigError, FeatureStoreError, MissingDataError
from odmt.experiment.prepare_plan import PreparePlan
from odmt.features.downloads import download_pictures, downloaded_files
from odmt.features.images import IMAGES_FILE, Entry, holds_nothing, open_images, read_entries
from odmt.features.picture_places import NO_PICTURE, Located, Place, file_place, locate

DOWNLOADS = "downloads"


def located_pictures(folder: Path, imported: Imported, items: list[str], plan: PreparePlan) -> Located:
    """Return where pictures lie in the source, or were when it was still there, and among those fetched so far.

    Raises:
        ConfigError: pictures are to be fetched and the source names no addresses.
        MissingDataError: the source is gone and nothing was kept of it.
        FeatureStoreError: the image store is unreadable, or does not know all items of a source that is gone.
    """
    if plan.download and not imported.urls:
        no_addresses()
    fetched = downloaded_files(folder / DOWNLOADS)
    if Path(imported.record.source).is_dir():
        return locate(imported.record.pictures, items, fetched)
    return _as_stored(folder, items, fetched)


def no_addresses() -> None:
    """Refuse to fetch pictures of a source that does not say where they are.

    Raises:
        ConfigError: always.
    """
    raise ConfigError("--download-images", ["the source names no addresses of pictures; leave the flag out"])


def with_addresses(located: Located, imported: Imported) -> dict[str, list[str]]:
    """Return the addresses of the items that have no picture anywhere, by item id."""
    lacking = (item for item, reason in located.reasons.items() if reason == NO_PICTURE)
    return {item: imported.urls[item] for item in lacking if imported.urls.get(item)}


def fetched_pictures(
    folder: Path, located: Located, wanted: Mapping[str, list[str]], settings: PrepareConfig
) -> tuple[Located, str]:
    """Fetch pictures.

    Args:
        folder: the data set's.
        located: where the other pictures lie.
        wanted: addresses by item id.
        settings: the limits.

    Returns:
        Where all lie, and what was fetched in words.

    Raises:
        ServiceError: the network or a host is plainly gone; what was fetched is kept.
    """
    result = download_pictures(folder / DOWNLOADS, wanted, settings)
    there = downloaded_files(folder / DOWNLOADS)
    places = {item: file_place(there[item][0]) for item in wanted if item in there}
    reasons = {item: result.failed.get(item, reason) for item, reason in located.reasons.items() if item not in places}
    told = f"{result.fetched:,} pictures fetched, {len(result.failed):,} of {len(wanted):,} failed"
    if result.passing:
        told += f", {result.passing:,} of them for a reason that may pass: the same command asks again"
    return Located({**located.places, **places}, reasons), told


def with_former_reasons(folder: Path, located: Located, wanted: Mapping[str, list[str]]) -> Located:
    """Return what is located with the reasons that are known why some pictures could not be fetched earlier."""
    if not wanted or holds_nothing(folder):
        return located
    entries = _entries(folder)
    former = {item: entries[item].reason for item in wanted if item in entries and not entries[item].stamp}
    return located._replace(reasons=located.reasons | former)


def _as_stored(folder: Path, items: list[str], fetched: Mapping[str, list[Path]]) -> Located:
    """Return the places of an earlier run, once the source is gone: nothing is due there."""
    path = folder / IMAGES_FILE
    gone = f"and the source is gone; run: {prepare_command(folder.name)}"
    if not path.exists():
        raise MissingDataError(f"{path}: does not exist, {gone}")
    entries = _entries(folder)
    unknown = [item for item in items if item not in entries and item not in fetched]
    if unknown:
        raise FeatureStoreError(f"{path}: holds no picture of {len(unknown)} items, such as {unknown[0]!r}, {gone}")
    places = {item: file_place(fetched[item][0]) for item in items if item in fetched}
    places |= {item: Place("file", "", b"", entries[item].stamp) for item in items if _has_stamp(entries, item)}
    return Located(places, {item: NO_PICTURE for item in items if item not in places})


def _has_stamp(entries: Mapping[str, Entry], item: str) -> bool:
    return item in entries and bool(entries[item].stamp)


def _entries(folder: Path) -> dict[str, Entry]:
    with open_images(folder) as store:
        return read_entries(store)
