"""Evaluate an ODMT model: item table once, then all users in batches, four heads.

Shape letters, used as name suffixes in this file:
    B users, N items (column j = compact id j + 1), D width
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from odmt.data.split import Targets
from odmt.evaluation.metrics import ranking_metrics
from odmt.evaluation.ranking import UserBatch, count_repeat_targets, rank_all
from odmt.model.fusion import ItemViews
from odmt.model.odmt import ItemTokens, Odmt

HEADS = ("fused", "id", "text", "image")


@torch.no_grad()
def item_table(model: Odmt, chunks: Iterator[tuple[Tensor, ItemTokens]]) -> ItemViews:
    """Encode all items once.

    Args:
        model: in evaluation mode.
        chunks: the items 1..N in order.

    Returns:
        Three float32 ``(N + 1, D)``; row 0 (padding) is zero.
    """
    parts = [model.encode_items(item_ids, tokens) for item_ids, tokens in chunks]
    padding = parts[0].id.new_zeros(1, parts[0].id.shape[1])
    return ItemViews(*(torch.cat([padding, *branch]).float() for branch in zip(*parts, strict=True)))


@torch.no_grad()
def score_users(model: Odmt, table: ItemViews, users: UserBatch) -> dict[str, Tensor]:
    """Score all items for some users: raw dot products, no popularity term; fused = their mean.

    Returns:
        For each head float32 ``(B, N)``.
    """
    inputs = ItemViews(*(branch[users.inputs] for branch in table))
    states = model.encode_sequences(inputs, users.inputs != 0)
    by_branch = {
        name: state[:, -1].float() @ branch[1:].T
        for name, state, branch in zip(ItemViews._fields, states, table, strict=True)
    }
    return {"fused": (by_branch["id"] + by_branch["text"] + by_branch["image"]) / 3, **by_branch}


@dataclass(frozen=True)
class Evaluator:
    """Measures a model on one set of targets.

    Attributes:
        targets: histories and targets.
        item_chunks: makes the items 1..N in order, a chunk at a time, on the model's device.
        max_seq_len: input positions.
        batch_size: users at once.
        rank_repeat_targets: see ``target_ranks``.
    """

    targets: Targets
    item_chunks: Callable[[], Iterator[tuple[Tensor, ItemTokens]]]
    max_seq_len: int
    batch_size: int
    rank_repeat_targets: bool

    def ranks(self, model: Odmt) -> dict[str, np.ndarray]:
        """Rank every user's target under the four heads; see ``rank_all``.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        was_training = model.training
        model.eval()
        try:
            table = item_table(model, self.item_chunks())
            return rank_all(
                lambda users: score_users(model, table, users),
                self.targets,
                self.max_seq_len,
                batch_size=self.batch_size,
                device=table.id.device,
                rank_repeat_targets=self.rank_repeat_targets,
            )
        finally:
            model.train(was_training)

    def metrics(self, model: Odmt) -> dict[str, float]:
        """Return the fused head's metrics by name, the other heads' as ``<head>/<name>``, and the repeat count."""
        found: dict[str, float] = {"repeat_targets": float(count_repeat_targets(self.targets))}
        for head, ranks in self.ranks(model).items():
            prefix = "" if head == "fused" else f"{head}/"
            found.update({prefix + name: value for name, value in ranking_metrics(ranks).items()})
        return found
