"""Full ranking: the place of each user's target among all items, history left out.

The rank is counted, not sorted: items that score at least as high as the target, less those of the history. Counting
needs no place for all scores at once, so ``blocks.py`` scores items a block at a time.

Shape letters, used as name suffixes in this file:
    H heads, B users, N items (compact ids 1..N), C columns of a block of items, P pairs of a user and an item, D width
"""

from collections.abc import Callable, Iterator, Sequence
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


class Pairs(NamedTuple):
    """The scores that a batch needs one by one: every user's history items and target, each once.

    Attributes:
        user: int64 ``(P,)``.
        item: int64 ``(P,)``, rising.
        is_target: bool ``(P,)``.
    """

    user: Tensor
    item: Tensor
    is_target: Tensor

    @classmethod
    def of(cls, users: UserBatch) -> "Pairs":
        """Collect them."""
        num_users = len(users.target)
        everyone = torch.arange(num_users, device=users.target.device)
        item = torch.cat([users.history_item, users.target])
        key = torch.unique(item * num_users + torch.cat([users.history_user, everyone]))
        user, item = key % num_users, key // num_users
        return cls(user, item, item == users.target[user])

    def of_targets(self, scores_HP: Tensor) -> Tensor:
        """Pick every user's target: ``(H, B)``."""
        picked = scores_HP[:, self.is_target]
        return torch.empty_like(picked).index_copy_(1, self.user[self.is_target], picked)


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


def rank_all(
    rank: Callable[[UserBatch], Tensor],
    heads: Sequence[str],
    targets: Targets,
    max_seq_len: int,
    *,
    batch_size: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Rank every user's target under every head.

    Users with histories of like length are ranked together: their sequences need the least padding.

    Args:
        rank: gives ``(H, B)`` ranks for some users.
        heads: names of the H heads.
        targets: histories and targets.
        max_seq_len: input positions.
        batch_size: users at once.
        device: where the scores are made.

    Returns:
        For each head, int32 ``(users,)`` in the order of ``targets``: 1 = best, 0 = the target cannot be hit.
    """
    order = np.argsort(np.minimum(np.diff(targets.offsets), max_seq_len), kind="stable")
    batches = user_batches(_reordered(targets, order), max_seq_len, batch_size, device)
    found = np.concatenate([rank(users).cpu().numpy() for users in batches], axis=1)
    ranks = np.empty(found.shape, dtype=np.int32)
    ranks[:, order] = found
    return dict(zip(heads, ranks, strict=True))


def _reordered(targets: Targets, order: np.ndarray) -> Targets:
    lengths = np.diff(targets.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = np.repeat(targets.offsets[:-1][order] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Targets(offsets, targets.history[items], targets.target[order])


def target_ranks(scores_HBN: Tensor, users: UserBatch, *, rank_repeat_targets: bool) -> Tensor:
    """Rank every user's target among scores that are all there; items with the target's score count as better.

    Args:
        scores_HBN: scores of all items, column j = compact id j + 1; OVERWRITTEN.
        users: whose scores they are.
        rank_repeat_targets: let a target that lies in the history be hit, as if it were not in the history.

    Returns:
        int64 ``(H, B)``: 1 = best; 0 = the target lies in the history and cannot be hit.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    check_finite(scores_HBN)
    return rank_in_full(scores_HBN, users, rank_repeat_targets=rank_repeat_targets)


def rank_in_full(scores_HBN: Tensor, users: UserBatch, *, rank_repeat_targets: bool) -> Tensor:
    """Do as ``target_ranks`` with scores that are known to be finite."""
    pairs = Pairs.of(users)
    scores_HP = scores_HBN[:, pairs.user, pairs.item - 1]
    target_HB = pairs.of_targets(scores_HP)
    counts_HB = count_at_least(scores_HBN, target_HB)
    return ranks_of(counts_HB, scores_HP, target_HB, pairs, users, rank_repeat_targets)


def count_repeat_targets(targets: Targets) -> int:
    """Count the users whose target lies in their own history."""
    user = np.repeat(np.arange(targets.num_users), np.diff(targets.offsets))
    return len(np.unique(user[targets.history == targets.target[user]]))


def count_at_least(scores_HBC: Tensor, target_HB: Tensor) -> Tensor:
    """Count the columns that reach the target's score, ``(H, B)``; overwrites the scores.

    Ones and zeros in place of the scores add up several times faster than a bool tensor does. Sums of float32 ones
    are exact below 2^24 columns.
    """
    return scores_HBC.ge_(target_HB.unsqueeze(2)).sum(dim=2).long()


def ranks_of(
    counts_HB: Tensor, scores_HP: Tensor, target_HB: Tensor, pairs: Pairs, users: UserBatch, rank_repeat_targets: bool
) -> Tensor:
    """Take the history's items out of the counts; the target itself, counted once, makes the best rank 1."""
    history_HP = (scores_HP >= target_HB[:, pairs.user]) & ~pairs.is_target
    ranks_HB = counts_HB.index_add(1, pairs.user, history_HP.long(), alpha=-1)
    if rank_repeat_targets:
        return ranks_HB
    repeats = users.history_user[users.history_item == users.target[users.history_user]]
    return ranks_HB.index_fill(1, repeats, 0)


def check_finite(scores: Tensor) -> None:
    """Raise NonFiniteError where a score is NaN or infinite."""
    if not torch.isfinite(scores).all():
        raise non_finite()


def non_finite() -> NonFiniteError:
    """Make the error of a score that is NaN or infinite."""
    return NonFiniteError("a score is NaN or infinite; the ranking would be arbitrary")
