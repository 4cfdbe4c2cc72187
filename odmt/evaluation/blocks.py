"""Scores of a model, a block of items at a time: a catalogue of a million items never meets all users at once.

Shape letters, used as name suffixes in this file:
    H heads, B users, N items (compact ids 1..N), C columns of a block of items, P pairs of a user and an item, D width
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from odmt.evaluation.ranking import (
    Pairs,
    UserBatch,
    check_finite,
    count_at_least,
    non_finite,
    rank_in_full,
    ranks_of,
)

CPU_BLOCK_BYTES = 4 * 2**20
"""Scores in hand at once on a CPU: they are written, summed and compared in its last-level cache."""

CPU_BLOCK_COLUMNS = 1024
"""Items of a block at most on a CPU: their vectors have to stay in cache beside the scores."""

GPU_BLOCK_BYTES = 256 * 2**20
"""Scores in hand at once elsewhere: large enough that starting kernels costs nothing, small beside the model."""

FUSED = "fused"
"""The head whose score is the mean of the branches' scores."""


def heads_of(branches: Sequence[str]) -> tuple[str, ...]:
    """Name a model's heads: the fused one, then its branches' own where there are several."""
    return (FUSED, *branches) if len(branches) > 1 else (FUSED,)


def score_heads(states: Sequence[Tensor], items: Sequence[Tensor], *, out_HBC: Tensor) -> None:
    """Write every head's scores: raw dot products, no popularity term; the fused head is their mean.

    Args:
        states: a branch each, ``(B, D)``.
        items: a branch each, ``(C, D)``.
        out_HBC: the heads in the order of ``heads_of``.
    """
    own = out_HBC[-len(states) :]
    for state_BD, items_CD, scores_BC in zip(states, items, own, strict=True):
        torch.mm(state_BD, items_CD.T, out=scores_BC)
    if len(states) > 1:
        torch.add(own[0], own[1], out=out_HBC[0])
        for scores_BC in own[2:]:
            out_HBC[0].add_(scores_BC)
        out_HBC[0].div_(len(states))


class ItemBlocks:
    """All items' vectors, scored against users a block at a time.

    Every product of a batch has the same shape, of whole tiles; the last block is filled up with zeros. Over an odd
    rest of columns MKL sums in another order, and copies of one vector would not tie.
    """

    def __init__(self, table: Sequence[Tensor], block_bytes: int | None = None, tile: int = 64) -> None:
        """Take the item table.

        Args:
            table: a branch each, float32 ``(N + 1, D)``, row 0 = padding.
            block_bytes: bound of the scores in hand at once (of one row of tiles at least); None = what suits the
                table's device.
            tile: a block's columns are a multiple of it. 16 are enough for MKL on AVX2; more is for wider vectors.
        """
        on_cpu = table[0].device.type == "cpu"
        budget = block_bytes or (CPU_BLOCK_BYTES if on_cpu else GPU_BLOCK_BYTES)
        self.table = tuple(table)
        self.num_items, self.width = len(table[0]) - 1, table[0].shape[1]
        self._tile = tile
        self._most_columns = min(self.num_items, CPU_BLOCK_COLUMNS) if on_cpu else self.num_items
        self._cells = max(1, budget // (4 * (len(table) + 1 if len(table) > 1 else 1)))
        self._magnitudes = [_magnitude(branch) for branch in table]

    def ranks(self, states: Sequence[Tensor], users: UserBatch, *, rank_repeat_targets: bool) -> Tensor:
        """Rank every user's target; see ``target_ranks``.

        Args:
            states: a branch each, float32 ``(B, D)``.
            users: whose states they are.
            rank_repeat_targets: see ``target_ranks``.

        Returns:
            int64 ``(H, B)``.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        check = not self._surely_finite(states)
        # Square blocks keep the operands of one product as small as they can be.
        rows = min(len(users.target), math.isqrt(self._cells))
        parts = []
        for start in range(0, len(users.target), rows):
            some = _rows(users, start, start + rows)
            block = _Block([state[start : start + rows] for state in states], self._columns(len(some.target)), check)
            parts.append(self._rank_rows(block, some, rank_repeat_targets))
        return torch.cat(parts, dim=1)

    def _rank_rows(self, block: "_Block", users: UserBatch, rank_repeat_targets: bool) -> Tensor:
        if block.columns >= self.num_items:
            scores_HBN = block.scores(self._items(1, block.columns))[:, :, : self.num_items]
            return rank_in_full(scores_HBN, users, rank_repeat_targets=rank_repeat_targets)
        pairs = Pairs.of(users)
        target_HB = self._target_scores(block, users)
        counts_HB, scores_HP = self._count(block, pairs, target_HB)
        in_place_HB = pairs.of_targets(scores_HP)
        if not torch.equal(in_place_HB, target_HB):  # a BLAS whose sums depend on the column: measure by its blocks
            target_HB = in_place_HB
            counts_HB, scores_HP = self._count(block, pairs, target_HB)
        return ranks_of(counts_HB, scores_HP, target_HB, pairs, users, rank_repeat_targets)

    def _items(self, first: int, columns: int) -> list[Tensor]:
        """Take a block's vectors, ``(C, D)`` a branch: views, except past the last item, where zeros follow."""
        missing = max(0, first + columns - 1 - self.num_items)
        block = [branch[first : first + columns] for branch in self.table]
        return [functional.pad(items_CD, (0, 0, 0, missing)) for items_CD in block] if missing else block

    def _target_scores(self, block: "_Block", users: UserBatch) -> Tensor:
        """Score the targets themselves, in products of the blocks' shape: ``(H, B)``."""
        parts: list[Tensor] = []
        for target_C in torch.split(users.target, block.columns):
            item_C = target_C.new_zeros(block.columns)
            item_C[: len(target_C)] = target_C
            scores_HBC = block.scores([branch[item_C] for branch in self.table])
            start = sum(part.shape[1] for part in parts)
            parts.append(scores_HBC[:, start : start + len(target_C)].diagonal(dim1=1, dim2=2).clone())
        return torch.cat(parts, dim=1)

    def _count(self, block: "_Block", pairs: Pairs, target_HB: Tensor) -> tuple[Tensor, Tensor]:
        """Count items at or above a score, ``(H, B)``, and pick the scores of the pairs on the way, ``(H, P)``."""
        firsts = torch.arange(1, self.num_items + 1, block.columns, device=pairs.item.device)
        cuts = [*torch.searchsorted(pairs.item, firsts).tolist(), len(pairs.item)]
        counts_HB = torch.zeros_like(target_HB, dtype=torch.int64)
        scores_HP = target_HB.new_empty(len(target_HB), len(pairs.item))
        for first, low, high in zip(firsts.tolist(), cuts, cuts[1:], strict=False):
            scores_HBC = block.scores(self._items(first, block.columns))
            scores_HP[:, low:high] = scores_HBC[:, pairs.user[low:high], pairs.item[low:high] - first]
            counts_HB += count_at_least(scores_HBC[:, :, : self.num_items + 1 - first], target_HB)
        return counts_HB, scores_HP

    def _columns(self, rows: int) -> int:
        tiles = min(self._cells // rows // self._tile, math.ceil(self._most_columns / self._tile))
        return max(1, tiles) * self._tile

    def _surely_finite(self, states: Sequence[Tensor]) -> bool:
        """Whether no score can overflow, by the operands' magnitudes: |u v| <= D max|u| max|v|.

        Raises:
            NonFiniteError: an operand is NaN or infinite, and so is every score that it enters.
        """
        bound = 0.0
        for state_BD, largest_item in zip(states, self._magnitudes, strict=True):
            largest_state = _magnitude(state_BD)
            if not (math.isfinite(largest_state) and math.isfinite(largest_item)):
                raise non_finite()
            bound += self.width * largest_state * largest_item
        return bound < torch.finfo(torch.float32).max / 2  # half: room for rounding


class _Block:
    """Scores of some users against as many items as fit, in one buffer that every product overwrites."""

    def __init__(self, states: Sequence[Tensor], columns: int, check: bool) -> None:
        self.states, self.columns, self.check = states, columns, check
        num_heads = len(states) + 1 if len(states) > 1 else 1
        self._scores_HBC = states[0].new_empty(num_heads, len(states[0]), columns)

    def scores(self, items: Sequence[Tensor]) -> Tensor:
        """Score a block of items, a branch each ``(C, D)``; ``(H, B, C)``, valid until the next call."""
        score_heads(self.states, items, out_HBC=self._scores_HBC)
        if self.check:
            check_finite(self._scores_HBC)
        return self._scores_HBC


def _rows(users: UserBatch, start: int, stop: int) -> UserBatch:
    inside = (users.history_user >= start) & (users.history_user < stop)
    history = (users.history_user[inside] - start, users.history_item[inside])
    return UserBatch(users.inputs[start:stop], *history, users.target[start:stop])


def _magnitude(values: Tensor) -> float:
    """Largest absolute value; NaN where there is one."""
    low, high = torch.aminmax(values)
    return float(torch.maximum(-low, high))
