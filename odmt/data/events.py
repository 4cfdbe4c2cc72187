"""From single interactions (who, what, when) to sequences: repetitions, the iterated core, a sample of users."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from odmt.data.interactions import Catalogue, Interactions
from odmt.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


class Events(NamedTuple):
    """Interactions in the order of their file.

    Attributes:
        users: names by code, in the order of their first appearance.
        items: the same.
        user: int32, codes.
        item: int32, codes.
        time: int64, in whatever unit the source counts.
    """

    users: list[str]
    items: list[str]
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray

    def chosen(self, keep: np.ndarray) -> "Events":
        """Return some of the events: a mask or indices; the codes stay."""
        return self._replace(user=self.user[keep], item=self.item[keep], time=self.time[keep])


class Wanted(NamedTuple):
    """Which users and items take part.

    Attributes:
        min_user: fewest interactions of a user.
        min_item: fewest of an item.
        max_users: users drawn at random; None = all.
        seed: of that draw.
    """

    min_user: int = 1
    min_item: int = 1
    max_users: int | None = None
    seed: int = 1

    @property
    def takes_all(self) -> bool:
        """Say whether nothing is left out."""
        return self.max_users is None and max(self.min_user, self.min_item) <= 1


def collect_events(tables: Iterable["pa.Table"]) -> Events:
    """Join tables with the columns ``user``, ``item`` (text) and ``time`` (whole numbers).

    Names become codes table by table, so that memory holds 16 bytes an interaction and each name once.
    """
    names: tuple[dict[str, int], dict[str, int]] = ({}, {})
    columns: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] = ([], [], [])
    for table in tables:
        for known, column, codes in zip(names, ("user", "item"), columns, strict=False):
            codes.append(_codes(table.column(column), known))
        columns[2].append(table.column("time").to_numpy().astype(np.int64))
    user, item = (np.concatenate([np.empty(0, np.int32), *parts]) for parts in columns[:2])
    return Events(list(names[0]), list(names[1]), user, item, np.concatenate([np.empty(0, np.int64), *columns[2]]))


def _codes(column: "pa.ChunkedArray", known: dict[str, int]) -> np.ndarray:
    encoded = column.combine_chunks().dictionary_encode()
    new = [known.setdefault(name, len(known)) for name in encoded.dictionary.to_pylist()]
    return np.array(new, dtype=np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]


def without_repetitions(events: Events) -> Events:
    """Keep the first of several events that are the same user, item and time."""
    order = np.lexsort((events.time, events.item, events.user))  # stable: the first in the file comes first
    columns = [column[order] for column in (events.user, events.item, events.time)]
    new = np.ones(len(order), dtype=bool)
    if len(order):
        new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return events.chosen(np.sort(order[new]))


def iterated_core(user: np.ndarray, item: np.ndarray, min_user: int, min_item: int) -> np.ndarray:
    """Return which interactions are left when users and items with too few go, again and again.

    The result is the largest set in which every user has ``min_user`` and every item ``min_item`` interactions; it does
    not depend on the order of removal.

    Returns:
        bool, one an interaction.
    """
    keep = np.ones(len(user), dtype=bool)
    while True:
        before = int(keep.sum())
        for codes, least in ((user, min_user), (item, min_item)):
            if least > 1:
                counts = np.bincount(codes[keep], minlength=int(codes.max(initial=-1)) + 1)
                keep &= counts[codes] >= least
        if int(keep.sum()) == before:
            return keep


def chosen_interactions(user: np.ndarray, item: np.ndarray, wanted: Wanted) -> np.ndarray:
    """Return which interactions take part: the core, of it the drawn users, of theirs the core again.

    Returns:
        bool, one an interaction.

    Raises:
        DataError: none is left.
    """
    keep = iterated_core(user, item, wanted.min_user, wanted.min_item)
    present = np.unique(user[keep])
    if wanted.max_users is not None and wanted.max_users < len(present):
        drawn = np.random.default_rng(wanted.seed).choice(present, wanted.max_users, replace=False)
        sampled = np.zeros(int(user.max()) + 1, dtype=bool)
        sampled[drawn] = True
        keep &= sampled[user]
        keep[keep] = iterated_core(user[keep], item[keep], wanted.min_user, wanted.min_item)
    if not keep.any():
        raise DataError(
            f"no interaction is left of {len(user):,}: no user has {wanted.min_user} of them with items that have "
            f"{wanted.min_item} (prepare.min_user_interactions, prepare.min_item_interactions)"
        )
    return keep


def to_sequences(events: Events, titles: Mapping[str, str]) -> tuple[Interactions, Catalogue]:
    """Order events by user (first appearance) and time; equal times keep the order of the file.

    Args:
        events: all of them take part.
        titles: of every item that occurs.

    Returns:
        Sequences, and a catalogue of the items that occur, sorted by id.
    """
    order = np.lexsort((events.time, events.user))
    user, item = events.user[order], events.item[order]
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    present = sorted((events.items[code], code) for code in np.unique(item).tolist())
    row_of = np.zeros(len(events.items), dtype=np.int32)
    row_of[[code for _, code in present]] = np.arange(len(present))
    names: Sequence[str] = [events.users[code] for code in user[starts].tolist()]
    ids = [name for name, _ in present]
    interactions = Interactions(list(names), np.append(starts, len(user)).astype(np.int64), row_of[item])
    return interactions, Catalogue(ids, [titles[name] for name in ids])
