"""Two plain rankers that every report prints beside a model: popularity, and last-item transition counts.

Shape letters, used as name suffixes in this file:
    H floors, B users, N items (column j = compact id j + 1)
"""

import numpy as np
import torch
from torch import Tensor

from odmt.data.split import Targets
from odmt.evaluation.metrics import ranking_metrics
from odmt.evaluation.ranking import UserBatch, rank_all, target_ranks


class TransitionCounts:
    """How often each item directly followed each other in the training sequences, as sparse rows."""

    def __init__(self, offsets: np.ndarray, items: np.ndarray, num_items: int) -> None:
        """Count.

        Args:
            offsets: int64 ``(sequences + 1,)``.
            items: int compact ids, joined.
            num_items: N.
        """
        follows = np.ones(max(len(items) - 1, 0), dtype=bool)
        inner = offsets[1:-1]
        follows[inner[(inner > 0) & (inner < len(items))] - 1] = False
        pairs = items[:-1][follows].astype(np.int64) * (num_items + 1) + items[1:][follows]
        unique, self.counts = np.unique(pairs, return_counts=True)
        self.following = unique % (num_items + 1)
        self.starts = np.searchsorted(unique // (num_items + 1), np.arange(num_items + 2))
        self.num_items = num_items

    def rows(self, last_B: np.ndarray) -> np.ndarray:
        """Return float64 ``(B, N)``: counts of what followed each user's last item."""
        dense = np.zeros((len(last_B), self.num_items))
        for row, item in enumerate(last_B):
            part = slice(self.starts[item], self.starts[item + 1])
            dense[row, self.following[part] - 1] = self.counts[part]
        return dense


def floor_metrics(
    train_offsets: np.ndarray,
    train_items: np.ndarray,
    num_items: int,
    targets: Targets,
    *,
    batch_size: int = 512,
    rank_repeat_targets: bool = False,
) -> dict[str, dict[str, float]]:
    """Measure both plain rankers on some targets; ties with the target count against it.

    Args:
        train_offsets: int64 ``(sequences + 1,)`` of the training sequences.
        train_items: int compact ids, joined.
        num_items: N.
        targets: histories and targets.
        batch_size: users at once.
        rank_repeat_targets: see ``target_ranks``.

    Returns:
        ``popularity`` and ``transitions``, each with the metrics of ``ranking_metrics``. Popularity breaks the ties of
        the transition counts.
    """
    popularity = np.bincount(train_items, minlength=num_items + 1)[1:].astype(np.float64)
    transitions = TransitionCounts(train_offsets, train_items, num_items)
    tie_break = torch.from_numpy(popularity / (popularity.max(initial=0.0) + 1.0))

    def rank(users: UserBatch) -> Tensor:
        counts_BN = torch.from_numpy(transitions.rows(users.inputs[:, -1].numpy()))
        scores_HBN = torch.stack([tie_break.expand_as(counts_BN), counts_BN + tie_break])
        return target_ranks(scores_HBN, users, rank_repeat_targets=rank_repeat_targets)

    floors = ("popularity", "transitions")
    ranks = rank_all(rank, floors, targets, 1, batch_size=batch_size, device=torch.device("cpu"))
    return {name: ranking_metrics(found) for name, found in ranks.items()}
