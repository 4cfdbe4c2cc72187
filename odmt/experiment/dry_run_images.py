"""What the images stage would do."""

from typing import NamedTuple

from odmt.commands import size
from odmt.data.imported import Imported, read_import
from odmt.data.sources.common import Found
from odmt.experiment.estimates import about, decode_seconds, some_pictures
from odmt.experiment.images_stage import needed_items
from odmt.experiment.locating import located_pictures, no_addresses, with_addresses
from odmt.experiment.prepare_plan import PreparePlan
from odmt.features.images import holds_nothing, open_images, read_entries
from odmt.features.picture_places import Located, Place
from odmt.features.workers import worker_count
from odmt.home import Home


class Due(NamedTuple):
    """Pictures that the images stage would read, and those it would look for in vain.

    Attributes:
        items: all that need one.
        places: of those that are due.
        located: where all are.
        imported: the import.
    """

    items: list[str]
    places: dict[str, Place]
    located: Located
    imported: Imported


def due_pictures(home: Home, plan: PreparePlan) -> Due:
    """Return what the images stage has to do for what has been imported; raises as that stage does."""
    folder = home.dataset(plan.dataset)
    imported = read_import(folder)
    items = needed_items(imported)
    located = located_pictures(folder, imported, items, plan)
    known = {}
    if not holds_nothing(folder):
        with open_images(folder) as store:
            known = read_entries(store)
    due = {
        item: place for item, place in located.places.items() if item not in known or known[item].stamp != place.stamp
    }
    return Due(items, due, located, imported)


def images_after_import(due: Due, plan: PreparePlan) -> list[str]:
    """Say what would be read, fetched and left out."""
    sentences = []
    if due.places:
        num_bytes = sum(place.num_bytes for place in due.places.values() if place.kind == "file")
        shown = f", {size(num_bytes)}" if num_bytes else ""
        seconds = decode_seconds(list(due.places.values())) * len(due.places) / _workers(plan, len(due.places))
        sentences.append(f"would read {len(due.places):,} of {len(due.items):,} pictures{shown}, {about(seconds)}")
    else:
        sentences.append(f"no picture to read: {len(due.items) - len(due.located.reasons):,} are there")
    lacking = list(due.located.reasons)
    addressed = with_addresses(due.located, due.imported)
    if addressed and plan.download:
        sentences.append(_fetching(f"up to {len(addressed):,}", len(addressed), plan))
        lacking = [item for item in lacking if item not in addressed]
    elif addressed:
        sentences.append(f"{len(addressed):,} more have an address: --download-images fetches them")
    if lacking:
        what = {"fail": "would stop", "drop": "would drop them", "blank": "would give them a grey picture"}
        example = f"such as {lacking[0]!r}, which {due.located.reasons[lacking[0]]}"
        sentences.append(f"{len(lacking):,} items without a picture, {example}: {what[plan.settings.missing_images]}")
    return sentences


def images_before_import(found: Found | None, words: str, count: int, plan: PreparePlan) -> list[str]:
    """Say what would be done about as many items, by a few pictures of the source.

    Args:
        found: the source; None = the demo set that is still to be generated.
        words: how many items there are, in words.
        count: how many.
        plan: what to prepare.
    """
    if found is None:
        if plan.download:
            no_addresses()
        return [f"would keep the pictures of {words} items, about 1 s"]
    if plan.download and "meta" not in found.files:
        no_addresses()
    sample = some_pictures(found.pictures)
    if not sample:
        if plan.download:
            return [_fetching(words, count, plan)]
        return [f"would look for pictures of {words} items"]
    num_bytes = sum(place.num_bytes for place in sample) / len(sample) * count
    shown = f", about {size(num_bytes)}" if sample[0].kind == "file" else ""
    seconds = decode_seconds(sample) * count / _workers(plan, count)
    return [f"would read pictures of {words} items{shown}, {about(seconds)} (from {len(sample)} of them)"]


def _fetching(words: str, count: int, plan: PreparePlan) -> str:
    connections = plan.settings.download_connections
    return f"would fetch {words} pictures over {connections} connections, {about(count / connections)} at a second each"


def _workers(plan: PreparePlan, num_pictures: int) -> int:
    return max(1, worker_count(plan.settings.workers, num_pictures))
