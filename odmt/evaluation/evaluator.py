"""Evaluate a model: item table once, then all users in batches, every head.

All is computed in float32, whatever autocast surrounds it.

Shape letters, used as name suffixes in this file:
    H heads, B users, L positions, R real positions of all users, N items (compact ids 1..N), D width
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from odmt.data.split import Targets
from odmt.evaluation.blocks import FUSED, ItemBlocks, heads_of, score_heads
from odmt.evaluation.metrics import group_metrics, ranking_metrics
from odmt.evaluation.ranking import UserBatch, count_repeat_targets, rank_all
from odmt.model.items import ItemTokens
from odmt.model.layout import SequenceLayout
from odmt.model.recommender import SequentialRecommender


class Evaluation(NamedTuple):
    """What was measured.

    Attributes:
        metrics: the fused head's by name, the other heads' as ``<head>/<name>``, the fused head's of a group of users
            as ``<group>/<name>``, and ``repeat_targets``, how many targets lie in their user's history.
        ranks: of each head int32 ``(users,)``: 1 = best, 0 = the target cannot be hit.
    """

    metrics: dict[str, float]
    ranks: dict[str, np.ndarray]


@torch.no_grad()
def item_table(
    model: SequentialRecommender, chunks: Iterable[tuple[Tensor, Sequence[ItemTokens]]]
) -> tuple[Tensor, ...]:
    """Encode all items once.

    Args:
        model: in evaluation mode.
        chunks: the items 1..N in any order, each once, with their features.

    Returns:
        A branch each, float32 ``(N + 1, D)``; row 0 (padding) is zero.
    """
    ids: list[Tensor] = []
    parts: list[tuple[Tensor, ...]] = []
    for item_ids, groups in chunks:
        with torch.autocast(item_ids.device.type, enabled=False):
            parts.append(tuple(branch.float() for branch in model.encode_items(item_ids, groups)))
        ids.append(item_ids)
    every_id = torch.cat(ids)
    table = [branch[0].new_zeros(len(every_id) + 1, branch[0].shape[1]) for branch in zip(*parts, strict=True)]
    for whole, branch in zip(table, zip(*parts, strict=True), strict=True):
        whole[every_id] = torch.cat(branch)
    return tuple(table)


@torch.no_grad()
def last_states(model: SequentialRecommender, table: Sequence[Tensor], inputs_BL: Tensor) -> tuple[Tensor, ...]:
    """Encode users' sequences up to the state after their last item.

    Args:
        model: in evaluation mode.
        table: see ``item_table``.
        inputs_BL: int64, left padded with 0.

    Returns:
        A branch each, float32 ``(B, D)``.
    """
    real_BL = inputs_BL != 0
    item_R = inputs_BL[real_BL]
    with torch.autocast(inputs_BL.device.type, enabled=False):
        states = model.last_states(tuple(branch[item_R] for branch in table), SequenceLayout.of(real_BL))
    return tuple(state_BD.float() for state_BD in states)


@torch.no_grad()
def score_users(model: SequentialRecommender, table: Sequence[Tensor], users: UserBatch) -> dict[str, Tensor]:
    """Score all items for a few users; see ``score_heads``.

    Returns:
        For each head float32 ``(B, N)``, column j = compact id j + 1.
    """
    states, heads = last_states(model, table, users.inputs), heads_of(model.branches)
    scores_HBN = states[0].new_empty(len(heads), len(states[0]), len(table[0]) - 1)
    score_heads(states, [branch[1:] for branch in table], out_HBC=scores_HBN)
    return dict(zip(heads, scores_HBN, strict=True))


@dataclass(frozen=True)
class Evaluator:
    """Measures a model on one set of targets.

    Attributes:
        targets: histories and targets.
        item_chunks: makes the items 1..N in any order, a chunk at a time, on the model's device.
        max_seq_len: input positions.
        batch_size: users at once.
        rank_repeat_targets: see ``target_ranks``.
        groups: bool ``(users,)`` by name: users who are also measured apart; see ``user_groups``.
    """

    targets: Targets
    item_chunks: Callable[[], Iterator[tuple[Tensor, Sequence[ItemTokens]]]]
    max_seq_len: int
    batch_size: int
    rank_repeat_targets: bool
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse groups that do not fit the targets."""
        for name, members in self.groups.items():
            if members.shape != (self.targets.num_users,):
                raise ValueError(
                    f"{name}: {len(members)} users in the group's mask, {self.targets.num_users} in the targets"
                )

    def measure(self, model: SequentialRecommender) -> Evaluation:
        """Rank every user's target under every head.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        was_training = model.training
        model.eval()
        try:
            ranks = self.ranks(model, item_table(model, self.item_chunks()))
        finally:
            model.train(was_training)
        metrics: dict[str, float] = {"repeat_targets": float(count_repeat_targets(self.targets))}
        for head, found in ranks.items():
            prefix = "" if head == FUSED else f"{head}/"
            metrics |= {prefix + name: value for name, value in ranking_metrics(found).items()}
        return Evaluation(metrics | group_metrics(ranks[FUSED], self.groups), ranks)

    def ranks(self, model: SequentialRecommender, table: Sequence[Tensor]) -> dict[str, np.ndarray]:
        """Rank with an item table that is there; the model is in evaluation mode. See ``rank_all``.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        blocks = ItemBlocks(table)

        def rank(users: UserBatch) -> Tensor:
            states = last_states(model, table, users.inputs)
            return blocks.ranks(states, users, rank_repeat_targets=self.rank_repeat_targets)

        return rank_all(
            rank,
            heads_of(model.branches),
            self.targets,
            self.max_seq_len,
            batch_size=self.batch_size,
            device=table[0].device,
        )
