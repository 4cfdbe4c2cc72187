"""Made data for the training benchmark: users, items of popularity 1/rank, frozen features."""

from typing import NamedTuple

import numpy as np

MAX_SEQ_LEN = 12
TEXT_TOKENS = (2, 22, 30)
"""Least, most frequent and most text tokens of an item; mean 18."""
IMAGE_TOKENS = 50


class Workload(NamedTuple):
    """Made data.

    Attributes:
        offsets: int64 ``(users + 1,)`` into ``items``.
        items: int32, of each user the training items, and one more that validation would take.
        batches: timed batches by name, int64 ``(B, S)``, left padded with 0.
        item_rows: int32 ``(num_items,)``, feature row of id ``i + 1``; 0 for items without features.
        tokens: float16 features of all rows by modality, joined: ``(total tokens, width)``.
        token_offsets: int64 ``(rows + 1,)`` by modality.
        unique_share: mean share of distinct items among the real slots of an epoch's batches.
    """

    offsets: np.ndarray
    items: np.ndarray
    batches: dict[str, np.ndarray]
    item_rows: np.ndarray
    tokens: dict[str, np.ndarray]
    token_offsets: dict[str, np.ndarray]
    unique_share: float


def make_workload(width: int, num_items: int, num_users: int, batch: int, seed: int) -> Workload:
    """Make the data of the docstring; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    odds = 0.7 ** np.arange(MAX_SEQ_LEN + 2 - 5)
    lengths = 5 + rng.choice(len(odds), size=num_users, p=odds / odds.sum())
    weights = 1 / np.arange(1, num_items + 1)
    identity = rng.permutation(num_items) + 1
    draws = identity[rng.choice(num_items, size=(num_users, 64), p=weights / weights.sum())]
    sequences = [_first_distinct(row, length + 1) for row, length in zip(draws, lengths, strict=True)]
    lengths = np.array([len(sequence) - 1 for sequence in sequences])
    windows = np.zeros((num_users, MAX_SEQ_LEN + 1), dtype=np.int64)
    for window, sequence in zip(windows, sequences, strict=True):
        window[MAX_SEQ_LEN + 2 - len(sequence) :] = sequence[:-1]
    popular = windows[:batch]
    distinct = np.zeros_like(popular)
    trained = rng.permutation(np.setdiff1d(windows, [0]))
    distinct[popular != 0] = trained[: (popular != 0).sum()]
    used = np.setdiff1d(np.concatenate([popular, distinct]), [0])
    item_rows = np.zeros(num_items, dtype=np.int32)
    item_rows[used - 1] = np.arange(len(used))
    num_tokens = {
        "text": np.rint(rng.triangular(*TEXT_TOKENS, size=len(used))).astype(np.int64),
        "image": np.full(len(used), IMAGE_TOKENS),
    }
    tokens = {
        name: rng.standard_normal((counts.sum(), width), dtype=np.float32).astype(np.float16)
        for name, counts in num_tokens.items()
    }
    parts = [windows[start : start + batch] for start in range(0, num_users - batch + 1, batch)]
    shares = [len(np.unique(part[part != 0])) / (part != 0).sum() for part in parts]
    return Workload(
        offsets=np.append(0, np.cumsum(lengths + 1)),
        items=np.concatenate(sequences).astype(np.int32),
        batches={"popular": popular, "distinct": distinct},
        item_rows=item_rows,
        tokens=tokens,
        token_offsets={name: np.append(0, np.cumsum(counts)) for name, counts in num_tokens.items()},
        unique_share=float(np.mean(shares)),
    )


def _first_distinct(draws: np.ndarray, count: int) -> np.ndarray:
    _, first = np.unique(draws, return_index=True)
    return draws[np.sort(first)[:count]]


def log_popularity(workload: Workload) -> np.ndarray:
    """Log of every item's share of the training items, float32 ``(num_items + 1,)``; padding has 0."""
    training = np.ones(len(workload.items), dtype=bool)
    training[workload.offsets[1:] - 1] = False
    counts = np.bincount(workload.items[training], minlength=len(workload.item_rows) + 1)[1:]
    with np.errstate(divide="ignore"):
        return np.log(np.append(1.0, counts / counts.sum())).astype(np.float32)
