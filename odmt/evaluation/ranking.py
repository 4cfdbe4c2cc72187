"""Full ranking: the place of each user's target among all items, history left out.

Shape letters, used as name suffixes in this file:
    B users, N items (column j = compact id j + 1)
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from odmt.data.split import Targets, left_padded
from odmt.errors import NonFiniteError


class UserBatch(NamedTuple):
    """Some users at evaluation.

    Attributes:
        inputs: int64 ``(B, L)``, last L items of the history, left padded with 0.
        history_user: int64 ``(history items,)``, row of each history item.
        history_item: int64 ``(history items,)``, its compact id.
        target: int64 ``(B,)``.
    """

    inputs: Tensor
    history_user: Tensor
    history_item: Tensor
    target: Tensor


def user_batches(targets: Targets, max_seq_len: int, batch_size: int, device: torch.device) -> Iterator[UserBatch]:
    """Yield all users in order, ``batch_size`` at a time."""
    for start in range(0, targets.num_users, batch_size):
        offsets = targets.offsets[start : start + batch_size + 1]
        lengths = np.diff(offsets)
        inputs = left_padded(offsets, targets.history, max_seq_len)
        history = targets.history[offsets[0] : offsets[-1]].astype(np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        parts = (inputs, rows, history, targets.target[start : start + batch_size].astype(np.int64))
        yield UserBatch(*(torch.from_numpy(part).to(device) for part in parts))


def target_ranks(scores_BN: Tensor, users: UserBatch, *, rank_repeat_targets: bool) -> Tensor:
    """Rank every user's target; items with the target's score count as better.

    Args:
        scores_BN: finite scores of all items.
        users: whose scores they are.
        rank_repeat_targets: let a target that lies in the history be hit, as if it were not in the history.

    Returns:
        int64 ``(B,)``: 1 = best; 0 = the target lies in the history and cannot be hit.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    if not torch.isfinite(scores_BN).all():
        raise NonFiniteError("a score is NaN or infinite; the ranking would be arbitrary")
    column_B = (users.target - 1).unsqueeze(1)
    target_B = scores_BN.gather(1, column_B)
    masked_BN = scores_BN.index_put((users.history_user, users.history_item - 1), scores_BN.new_tensor(-torch.inf))
    repeats_B = masked_BN.gather(1, column_B).squeeze(1) == -torch.inf
    masked_BN = masked_BN.scatter(1, column_B, -torch.inf)
    ranks_B = (masked_BN >= target_B).sum(dim=1) + 1
    return ranks_B if rank_repeat_targets else ranks_B.masked_fill(repeats_B, 0)


def rank_all(
    score: Callable[[UserBatch], dict[str, Tensor]],
    targets: Targets,
    max_seq_len: int,
    *,
    batch_size: int,
    device: torch.device,
    rank_repeat_targets: bool,
) -> dict[str, np.ndarray]:
    """Rank every user's target under every head.

    Args:
        score: gives ``(B, N)`` scores a head for some users.
        targets: histories and targets.
        max_seq_len: input positions.
        batch_size: users at once.
        device: where the scores are made.
        rank_repeat_targets: see ``target_ranks``.

    Returns:
        For each head, int64 ``(users,)``.
    """
    ranks: dict[str, list[np.ndarray]] = {}
    for users in user_batches(targets, max_seq_len, batch_size, device):
        for head, scores_BN in score(users).items():
            found = target_ranks(scores_BN, users, rank_repeat_targets=rank_repeat_targets)
            ranks.setdefault(head, []).append(found.cpu().numpy())
    return {head: np.concatenate(parts) for head, parts in ranks.items()}


def count_repeat_targets(targets: Targets) -> int:
    """Count the users whose target lies in their own history."""
    user = np.repeat(np.arange(targets.num_users), np.diff(targets.offsets))
    return len(np.unique(user[targets.history == targets.target[user]]))
