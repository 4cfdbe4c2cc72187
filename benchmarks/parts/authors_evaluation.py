"""The authors' evaluation, with their operations: the side that ``evaluate.py`` compares with.

Padded sequences of L slots go through all positions of the three sequence encoders, a batch of users at a time;
queries, keys and values are three products, attention is an explicit softmax over scores plus an added mask. Then, user
by user and head by head: the history's scores are set to minus infinity, all items are sorted, and the rank is read off
a dense one-hot label. Needs torch and numpy alone; holds the golden files
(``tests/evaluation/test_authors_evaluation.py``).

Source: Ji et al., ACM MM 2023, arXiv:2308.04067, in the form of its released code.

Shape letters, used as name suffixes in this file:
    B users, L input positions, N items, H heads of attention, D width
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from parts.authors_layers import BRANCHES, SequenceEncoder, Sizes, split_projections

HEADS = ("fused", *BRANCHES)
TOP_K = 10


class HeadResult(NamedTuple):
    """What was measured of one head.

    Attributes:
        ranks: int64 ``(users,)``, place of the target in the sorted list; the history's items stand at its end.
        hit: float64 ``(users,)``, 1 where the target is among the first ``TOP_K``.
        ndcg: float64 ``(users,)``.
    """

    ranks: np.ndarray
    hit: np.ndarray
    ndcg: np.ndarray


def encoders_of(state: Mapping[str, Tensor], num_heads: int) -> dict[str, SequenceEncoder]:
    """Make the three encoders from a model's parameters under our names."""
    found = {}
    for branch in BRANCHES:
        prefix = f"sequence_encoders.{branch}."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        length, width = own["position_embedding.weight"].shape
        num_blocks = sum(name.endswith("contract.weight") for name in own)
        sizes = Sizes(0, 0, 0, 0, width, length, sequence_layers=num_blocks, sequence_heads=num_heads, dropout=0.0)
        encoder = SequenceEncoder(sizes).to(own["position_embedding.weight"].device).eval().requires_grad_(False)
        encoder.load_state_dict(split_projections(own))
        found[branch] = encoder
    return found


@torch.no_grad()
def evaluate(
    encoders: Mapping[str, SequenceEncoder],
    table: Mapping[str, Tensor],
    histories: Sequence[Tensor],
    targets: Sequence[int],
    max_seq_len: int,
    batch_size: int,
) -> dict[str, HeadResult]:
    """Rank every user's target under the four heads.

    Args:
        encoders: a branch each.
        table: a branch each, ``(N + 1, D)``, row 0 = padding.
        histories: int64 item ids before each target, on the table's device.
        targets: the item ids that follow.
        max_seq_len: L.
        batch_size: users at once.
    """
    num_items, device = len(table["id"]) - 1, table["id"].device
    item_rank_N = torch.arange(1, num_items + 1, device=device, dtype=torch.float32)
    found: dict[str, list[tuple[float, float, float]]] = {head: [] for head in HEADS}
    for start in range(0, len(targets), batch_size):
        users = range(start, min(start + batch_size, len(targets)))
        scores = _scores(encoders, table, [histories[user] for user in users], max_seq_len)
        labels_BN = torch.zeros(len(users), num_items, device=device)
        wanted_B = torch.tensor([targets[user] for user in users], device=device)
        labels_BN.scatter_(1, wanted_B[:, None] - 1, 1.0)
        for head, scores_BN in scores.items():
            for user, label_N, score in zip(users, labels_BN, scores_BN, strict=True):
                score[histories[user]] = -math.inf
                found[head].append(_measure(score[1:], label_N, item_rank_N))
    return {head: HeadResult(*_columns(results)) for head, results in found.items()}


def _scores(
    encoders: Mapping[str, SequenceEncoder], table: Mapping[str, Tensor], histories: Sequence[Tensor], max_seq_len: int
) -> dict[str, Tensor]:
    """Score all items, padding included, under the four heads: ``(B, N + 1)``."""
    rows = [F.pad(history[-max_seq_len:], (max(0, max_seq_len - len(history)), 0)) for history in histories]
    inputs_BL = torch.stack(rows)
    states = {branch: encoders[branch](table[branch][inputs_BL], inputs_BL != 0)[:, -1] for branch in BRANCHES}
    own = {branch: states[branch] @ table[branch].T for branch in BRANCHES}
    return {"fused": (own["id"] + own["text"] + own["image"]) / 3, **own}


def _measure(score_N: Tensor, label_N: Tensor, item_rank_N: Tensor) -> tuple[float, float, float]:
    order_N = torch.argsort(score_N, descending=True)
    rank = torch.sum(torch.take(label_N, order_N) * item_rank_N).item()
    hit = rank <= TOP_K
    return rank, float(hit), 1 / math.log2(rank + 1) if hit else 0.0


def _columns(results: list[tuple[float, float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ranks, hit, ndcg = np.array(results).T
    return ranks.astype(np.int64), hit, ndcg
