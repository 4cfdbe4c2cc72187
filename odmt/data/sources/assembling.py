"""From the interactions of a public original to sequences, with a note of everything that was left out."""

from collections.abc import Mapping

import numpy as np

from odmt.data.events import Events, Wanted, chosen_interactions, to_sequences, without_repetitions
from odmt.data.interactions import Catalogue, Interactions
from odmt.data.parts import PartReader
from odmt.errors import DataError


def told_once(reader: PartReader, told: Events, notes: dict[str, int], repetition: str) -> Events:
    """Drop repetitions; note them, and the lines of the file that meant nothing.

    Args:
        reader: what read the file.
        told: all that it gave.
        notes: gets a count a reason.
        repetition: the reason in words.
    """
    note(notes, f"damaged lines, the first: {reader.first_damaged}", reader.damaged)
    events = without_repetitions(told)
    note(notes, repetition, len(told.user) - len(events.user))
    return events


def assemble(
    events: Events, titles: Mapping[str, str], wanted: Wanted, notes: dict[str, int], unknown: str
) -> tuple[Interactions, Catalogue]:
    """Take the interactions that are wanted of items that have a text.

    Args:
        events: no repetitions among them.
        titles: text by item id; an item without one is left out.
        wanted: which users and items take part.
        notes: gets a count a reason.
        unknown: the reason why an item without a text goes, in words.

    Raises:
        DataError: nothing is left.
    """
    known = np.array([item in titles for item in events.items], dtype=bool)
    met = np.zeros(len(events.items), dtype=bool)
    met[events.item] = True
    note(notes, unknown, int((met & ~known).sum()))
    described = events.chosen(known[events.item])
    if len(described.user) == 0:
        raise DataError(
            f"all {int(met.sum()):,} items of the interactions are {unknown}: the files do not belong together"
        )
    note(notes, "interactions with such items", len(events.user) - len(described.user))
    kept = described.chosen(chosen_interactions(described.user, described.item, wanted))
    note(notes, "interactions outside the core or the drawn users", len(described.user) - len(kept.user))
    interactions, catalogue = to_sequences(kept, titles)
    note_empty(notes, catalogue)
    return interactions, catalogue


def note_empty(notes: dict[str, int], catalogue: Catalogue) -> None:
    """Note the items that have nothing to say for themselves."""
    note(notes, "items with an empty text, kept", sum(not title for title in catalogue.titles))


def note(notes: dict[str, int], reason: str, count: int) -> None:
    """Note a reason that occurred."""
    if count:
        notes[reason] = count
