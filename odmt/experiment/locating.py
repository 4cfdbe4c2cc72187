"""Where the pictures of an import lie, once those that are to be fetched have been."""

from collections.abc import Mapping
from pathlib import Path

from odmt.config import PrepareConfig
from odmt.data.imported import Imported
from odmt.data.interactions import prepare_command
from odmt.errors import ConfigError, FeatureStoreError, MissingDataError
from odmt.experiment.prepare_plan import PreparePlan
from odmt.features.downloads import download_pictures, downloaded_files, former_failures
from odmt.features.images import IMAGES_FILE, NO_DIGEST, Entry, holds_nothing, open_images, read_entries
from odmt.features.picture_places import NO_PICTURE, Located, Place, file_place, locate

DOWNLOADS = "downloads"


def located_pictures(folder: Path, imported: Imported, items: list[str], plan: PreparePlan) -> Located:
    """Return where pictures lie in the source, or were when it was still there, and among those fetched so far.

    Raises:
        ConfigError: pictures are to be fetched and the source names no addresses.
        MissingDataError: the source is gone and nothing was kept of it.
        FeatureStoreError: the image store is unreadable, or does not know all items of a source that is gone.
    """
    if plan.download and not any(imported.urls.values()):
        no_addresses()
    fetched = downloaded_files(folder / DOWNLOADS)
    if Path(imported.record.source).is_dir():
        return locate(imported.record.pictures, items, fetched)
    return _as_stored(folder, imported, items, fetched, plan)


def no_addresses() -> None:
    """Refuse to fetch pictures of a source that does not say where they are.

    Raises:
        ConfigError: always.
    """
    raise ConfigError("--download-images", ["the source names no addresses of pictures; leave the flag out"])


def with_addresses(located: Located, imported: Imported) -> dict[str, list[str]]:
    """Return the addresses of the items that have no picture anywhere, by item id."""
    is_gone = not Path(imported.record.source).is_dir()
    lacking = (item for item, reason in located.reasons.items() if is_gone or reason == NO_PICTURE)
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
    former = former_failures(folder / DOWNLOADS) if wanted else {}
    return located._replace(reasons=located.reasons | {item: former[item] for item in wanted if item in former})


def _as_stored(
    folder: Path, imported: Imported, items: list[str], fetched: Mapping[str, list[Path]], plan: PreparePlan
) -> Located:
    """Return the places of an earlier run, once the source is gone: nothing is due there but what was fetched."""
    path = folder / IMAGES_FILE
    entries = _entries(folder)
    unknown = [item for item in items if item not in entries and item not in fetched]
    addressed = [item for item in unknown if imported.urls.get(item)]
    if unknown and not (plan.download and len(addressed) == len(unknown)):
        what = f"holds no picture of {len(unknown)} items, such as {unknown[0]!r}," if entries else "does not exist,"
        more = ", or fetch them with --download-images" if len(addressed) == len(unknown) else ""
        error = FeatureStoreError if entries else MissingDataError
        raise error(f"{path}: {what} and the source is gone; run: {prepare_command(folder.name)}{more}")
    places = {item: file_place(fetched[item][0]) for item in items if item in fetched}
    for item in items:
        entry = entries.get(item, _UNKNOWN)
        # A broken one that has an address is fetched anew.
        if item not in places and entry.stamp and not (plan.download and entry.reason and imported.urls.get(item)):
            places[item] = Place("file", "", b"", entry.stamp)
    lacking = [item for item in items if item not in places]
    return Located(places, {item: entries.get(item, _UNKNOWN).reason or NO_PICTURE for item in lacking})


_UNKNOWN = Entry(NO_DIGEST, "")


def _entries(folder: Path) -> dict[str, Entry]:
    if holds_nothing(folder):
        return {}
    with open_images(folder) as store:
        return read_entries(store)
