"""Leave-one-out split: which users and items take part, compact ids, and who may see what.

Protocol (Ji et al., ACM MM 2023, as released): keep users with at least ``min_seq_len`` interactions, of each the last
``max_seq_len + 3``; drop items that no kept sequence holds; ids 1..n in catalogue order, 0 = padding. The last
item of a sequence is the test target, the one before it the validation target.

A quirk of the released code that is kept: of a user on two lines the second line counts, at the first one's
place, but the items of the first keep their ids.
"""

from typing import NamedTuple

import numpy as np

from odmt.data.interactions import Interactions
from odmt.errors import DataError


class FullSplit(NamedTuple):
    """Every kept sequence, test items included. Only the loaders and the sealed test hold one.

    Attributes:
        users: external ids of the kept users.
        item_rows: int32 ``(n,)``, catalogue row of compact id ``i + 1``.
        offsets: int64 ``(users + 1,)``.
        items: int32, compact ids of all kept sequences, joined.
        max_seq_len: input positions of the sequence encoders.
    """

    users: list[str]
    item_rows: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    max_seq_len: int


class DevelopmentSplit(NamedTuple):
    """What training and validation get: no sequence holds its user's last item.

    Attributes:
        item_rows: int32 ``(n,)``, catalogue row of compact id ``i + 1``.
        offsets: int64 ``(users + 1,)``.
        items: int32, compact ids; of each user ``[training items..., validation target]``.
        max_seq_len: input positions of the sequence encoders.
    """

    item_rows: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    max_seq_len: int

    @property
    def num_items(self) -> int:
        """Compact ids, padding not counted."""
        return len(self.item_rows)

    @property
    def num_users(self) -> int:
        """Kept users."""
        return len(self.offsets) - 1


class Targets(NamedTuple):
    """Histories and the item that follows each.

    Attributes:
        offsets: int64 ``(users + 1,)`` into ``history``.
        history: int32, compact ids before the target, joined.
        target: int32 ``(users,)``.
    """

    offsets: np.ndarray
    history: np.ndarray
    target: np.ndarray

    @property
    def num_users(self) -> int:
        """Users with a target."""
        return len(self.target)


def split_interactions(interactions: Interactions, max_seq_len: int, min_seq_len: int) -> FullSplit:
    """Apply the protocol to a data set.

    Raises:
        DataError: no user is long enough.
    """
    lengths = np.diff(interactions.offsets)
    kept_lines = np.flatnonzero(lengths >= min_seq_len)
    if len(kept_lines) == 0:
        longest = int(lengths.max(initial=0))
        raise DataError(f"no user has {min_seq_len} interactions (data.min_seq_len); the longest has {longest}")
    keep = np.minimum(lengths[kept_lines], max_seq_len + 3)
    ends = interactions.offsets[1:][kept_lines]
    sequences = [interactions.items[end - count : end] for end, count in zip(ends, keep, strict=True)]
    item_rows = np.unique(np.concatenate(sequences)).astype(np.int32)
    of_user: dict[str, np.ndarray] = {}
    for line, sequence in zip(kept_lines, sequences, strict=True):
        of_user[interactions.users[line]] = sequence
    offsets = np.zeros(len(of_user) + 1, dtype=np.int64)
    np.cumsum([len(sequence) for sequence in of_user.values()], out=offsets[1:])
    items = np.searchsorted(item_rows, np.concatenate(list(of_user.values()))).astype(np.int32) + 1
    return FullSplit(list(of_user), item_rows, offsets, items.astype(np.int32), max_seq_len)


def development_split(full: FullSplit) -> DevelopmentSplit:
    """Drop every user's last item."""
    keep = np.ones(len(full.items), dtype=bool)
    keep[full.offsets[1:] - 1] = False
    offsets = full.offsets - np.arange(len(full.offsets))
    return DevelopmentSplit(full.item_rows, offsets, full.items[keep], full.max_seq_len)


def last_item_targets(offsets: np.ndarray, items: np.ndarray) -> Targets:
    """Take each sequence's last item as its target and the rest as its history."""
    keep = np.ones(len(items), dtype=bool)
    keep[offsets[1:] - 1] = False
    return Targets(offsets - np.arange(len(offsets)), items[keep], items[offsets[1:] - 1])


def training_windows(split: DevelopmentSplit) -> np.ndarray:
    """Return every user's training items, left padded: inputs and shifted targets in one row.

    Returns:
        int64 ``(users, max_seq_len + 1)``, 0 = padding.
    """
    train = last_item_targets(split.offsets, split.items)
    return left_padded(train.offsets, train.history, split.max_seq_len + 1)


def left_padded(offsets: np.ndarray, items: np.ndarray, width: int) -> np.ndarray:
    """Put the last ``width`` items of every sequence into one row each, right aligned.

    Returns:
        int64 ``(sequences, width)``, 0 = padding.
    """
    columns = offsets[1:, None] - np.arange(width, 0, -1)
    real = columns >= offsets[:-1, None]
    rows = np.zeros(columns.shape, dtype=np.int64)
    rows[real] = items[columns[real]]
    return rows


def item_probabilities(split: DevelopmentSplit, power: float = 1.0) -> np.ndarray:
    """Return every item's share of the training interactions, to a power.

    Items without a training interaction get 0 (they never stand in a batch) unless the power is 0.

    Returns:
        float64 ``(n + 1,)``; padding has 1.
    """
    counts = training_counts(split)[1:] ** power
    return np.concatenate([[1.0], counts / counts.sum()])


def training_counts(split: DevelopmentSplit) -> np.ndarray:
    """Count every item's training interactions.

    Returns:
        float64 ``(n + 1,)``; padding has 0.
    """
    train = last_item_targets(split.offsets, split.items)
    return np.bincount(train.history, minlength=split.num_items + 1).astype(np.float64)
