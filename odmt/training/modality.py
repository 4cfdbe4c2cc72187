"""Frozen tokens of one modality, and copies of those that some items have.

Shape letters: M items, T tokens of the longest of them, D feature width.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from odmt.features.ragged import RaggedFeatures


class Modality:
    """One modality's tokens as tensors, and where each item's tokens stand in them."""

    def __init__(self, features: RaggedFeatures, item_rows: np.ndarray, device: torch.device | None = None) -> None:
        """Take the tokens.

        Args:
            features: of the whole catalogue.
            item_rows: int ``(n,)``, catalogue row of each item.
            device: where to copy the tokens, into one tensor; None = they stay in their shards.
        """
        with warnings.catch_warnings():  # shared memory is read-only, and nothing here writes to it
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.parts = [torch.from_numpy(shard.tokens) for shard in features.shards]
        self.lengths = features.lengths[item_rows]
        self.part_of = features.shard_numbers[item_rows]
        self.starts = features.starts[item_rows]
        if device is not None:
            self.starts = self.starts + np.cumsum([0, *map(len, self.parts)])[self.part_of]
            self.part_of = np.zeros_like(self.part_of)
            self.parts = [_copied(self.parts, device)]

    def gather(self, places: np.ndarray, limit: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Copy the tokens of some items, padded to the longest of them.

        Args:
            places: int ``(M,)``, compact ids less 1.
            limit: at most so many tokens of each item; None = all.

        Returns:
            float16 ``(M, T, D)`` with zeros at padding, T >= 1, and bool ``(M, T)``, True at real tokens; None if all
            are real.
        """
        lengths = self.lengths[places] if limit is None else np.minimum(self.lengths[places], limit)
        real = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
        mask = None if real.all() else torch.from_numpy(real).to(self.parts[0].device)
        numbers = np.unique(self.part_of[places[lengths > 0]])
        if len(numbers) == 0:
            flat = self.parts[0].new_zeros(real.size, self.parts[0].shape[1])
        elif len(numbers) == 1:
            flat = _from_one(self.parts[numbers[0]], self.starts[places], real, mask)
        else:
            flat = self._from_several(numbers, places, lengths, real)
        return flat.view(*real.shape, flat.shape[1]), mask

    def _from_several(self, numbers: np.ndarray, places: np.ndarray, lengths: np.ndarray, real: np.ndarray) -> Tensor:
        """Copy the real tokens shard by shard, and from there to where their items want them."""
        by_part = np.argsort(self.part_of[places], kind="stable")
        ends = np.cumsum(lengths[by_part])
        begins = ends - lengths[by_part]
        source = np.repeat(self.starts[places[by_part]] - begins, lengths[by_part]) + np.arange(ends[-1])
        part_of = self.part_of[places[by_part]]
        copied = self.parts[0].new_empty(int(ends[-1]) + 1, self.parts[0].shape[1])
        copied[-1] = 0.0  # what padding points to
        start = 0
        for number in numbers:
            end = int(ends[np.searchsorted(part_of, number, side="right") - 1])
            torch.index_select(self.parts[number], 0, torch.from_numpy(source[start:end]), out=copied[start:end])
            start = end
        first = np.empty_like(begins)
        first[by_part] = begins
        index = np.where(real, first[:, None] + np.arange(real.shape[1]), ends[-1])
        return copied.index_select(0, torch.from_numpy(index.reshape(-1)))


def _from_one(tokens: Tensor, starts: np.ndarray, real: np.ndarray, mask: Tensor | None) -> Tensor:
    """Copy tokens ``(M * T, D)`` of items that stand in one tensor; zeros where ``real`` ``(M, T)`` is False."""
    index = np.where(real, starts[:, None] + np.arange(real.shape[1]), 0)
    gathered = tokens.index_select(0, torch.from_numpy(index.reshape(-1)).to(tokens.device))
    if mask is None:
        return gathered
    if tokens.device.type == "cpu":  # masked_fill_ takes several times as long there
        return gathered.index_fill_(0, torch.from_numpy(np.flatnonzero(~real)), 0.0)
    return gathered.masked_fill_(~mask.view(-1, 1), 0.0)


def _copied(parts: list[Tensor], device: torch.device) -> Tensor:
    """Copy the parts into one new tensor, one after the other, so that no more than it is needed at a time."""
    whole = torch.empty(sum(map(len, parts)), parts[0].shape[1], dtype=parts[0].dtype, device=device)
    end = 0
    for part in parts:
        whole[end : end + len(part)].copy_(part)
        end += len(part)
    return whole


def summaries_of(features: RaggedFeatures, item_rows: np.ndarray) -> RaggedFeatures:
    """Copy the first token of each item that has any; row ``i`` of the result is item ``i + 1``."""
    has_tokens = features.lengths[item_rows] > 0
    rows = item_rows[has_tokens]
    first = np.empty((len(rows), features.width), dtype=features.shards[0].tokens.dtype)
    for number, shard in enumerate(features.shards):
        here = features.shard_numbers[rows] == number
        first[here] = shard.tokens[features.starts[rows[here]]]
    return RaggedFeatures.of(first, np.append(0, np.cumsum(has_tokens)))
