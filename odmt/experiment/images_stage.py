"""The second stage: every item's picture is read, checked and kept; items without one are dealt with.

Its result are the data set's own tables: those of the import less the items that the policy ``drop`` takes away.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from odmt.data.events import iterated_core
from odmt.data.imported import Imported, read_import
from odmt.data.interactions import (
    Catalogue,
    Interactions,
    content_digest,
    readable_digest,
    restricted,
    write_dataset,
)
from odmt.errors import DataError
from odmt.experiment.locating import fetched_pictures, located_pictures, with_addresses, with_former_reasons
from odmt.experiment.prepare_plan import PreparePlan, StageReport, counted
from odmt.features.image_import import BAD_IMAGES_FILE, fill_image_store
from odmt.home import Home


class Tables(NamedTuple):
    """A data set's own tables, and what became of the imported ones.

    Attributes:
        interactions: sequences of catalogue rows.
        catalogue: the items.
        notes: what was left out, in words.
    """

    interactions: Interactions
    catalogue: Catalogue
    notes: tuple[str, ...]


def run_images(home: Home, plan: PreparePlan) -> StageReport:
    """Fetch what is to be fetched, keep all pictures, and write the data set's tables.

    Raises:
        ConfigError: pictures are to be fetched and the source names no addresses.
        MissingDataError: nothing has been imported.
        DataError: items have no whole picture and the policy is ``fail``.
        FeatureStoreError: the image store is unreadable.
        ServiceError: the pictures' server cannot be reached.
    """
    folder = home.dataset(plan.dataset)
    imported = read_import(folder)
    items = needed_items(imported)
    notes: tuple[str, ...] = ()
    located = located_pictures(folder, imported, items, plan)
    wanted = with_addresses(located, imported)
    if wanted and plan.download:
        located, told = fetched_pictures(folder, located, wanted, plan.settings)
        notes = (told,)
    else:
        located = with_former_reasons(folder, located, wanted)
    hint = "" if plan.download or not wanted else "; the source names addresses: --download-images fetches them"
    result = fill_image_store(folder, items, located, plan.settings.missing_images, plan.settings.workers, hint)
    tables = own_tables(imported, result.bad if plan.settings.missing_images == "drop" else {})
    changed = write_tables(folder, tables)
    if result.bad and plan.settings.missing_images == "blank":
        notes = (*notes, f"{len(result.bad):,} items have a grey picture in place of their own ({BAD_IMAGES_FILE})")
    summary = f"{result.num_images:,} pictures, {result.read:,} read now; {counted(*tables[:2])}"
    return StageReport("images", result.changed or changed, summary, notes=(*notes, *tables.notes))


def needed_items(imported: Imported) -> list[str]:
    """Return the items that somebody met."""
    return [imported.catalogue.item_ids[row] for row in imported.interactions.occurring_rows]


def write_tables(folder: Path, tables: Tables) -> bool:
    """Write a data set's own tables if they are not there already; return whether they were not."""
    changed = readable_digest(folder) != content_digest(tables.interactions, tables.catalogue)
    if changed:
        write_dataset(folder, tables.interactions, tables.catalogue)
    return changed


def own_tables(imported: Imported, dropped: Mapping[str, str]) -> Tables:
    """Return the imported tables without some items, and without what then falls below the import's core.

    Args:
        imported: the import.
        dropped: the items that go.

    Raises:
        DataError: nothing is left.
    """
    interactions, catalogue = imported.interactions, imported.catalogue
    if not dropped:
        return Tables(interactions, catalogue, ())
    rows = np.array([item in dropped for item in catalogue.item_ids])
    keep = ~rows[interactions.items]
    user = np.repeat(np.arange(len(interactions.users)), np.diff(interactions.offsets))
    keep[keep] = iterated_core(user[keep], interactions.items[keep], *imported.record.core)
    if not keep.any():
        raise DataError(f"no interaction is left once the {len(dropped)} items without a whole picture are dropped")
    left = restricted(interactions, keep)
    before, after = interactions.occurring_rows, left.occurring_rows
    stays = np.ones(len(catalogue.item_ids), dtype=bool)
    stays[np.setdiff1d(before, after)] = False
    moved = np.cumsum(stays) - 1
    kept = Catalogue(*([text for text, stay in zip(texts, stays, strict=True) if stay] for texts in catalogue))
    notes = [f"{len(dropped):,} items dropped, without a whole picture ({BAD_IMAGES_FILE})"]
    others = len(before) - len(after) - len(dropped)
    if others:
        notes.append(f"{others:,} further items dropped, below the core without them")
    notes.append(
        f"{int((~keep).sum()):,} interactions and {len(interactions.users) - len(left.users):,} users with them"
    )
    return Tables(left._replace(items=moved[left.items].astype(np.int32)), kept, tuple(notes))
