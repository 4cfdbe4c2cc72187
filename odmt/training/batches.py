"""From the split and the shared features to training batches and item chunks.

Shape letters, used as name suffixes in this file:
    U users, S = max_seq_len + 1 slots, M items
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from odmt.data.split import DevelopmentSplit, item_probabilities, training_windows
from odmt.features.ragged import RaggedFeatures
from odmt.model.odmt import Batch, ItemTokens
from odmt.training.seeding import user_order


class ItemFeatures:
    """Features of the items 1..n of a split, gathered as copies onto a device."""

    def __init__(
        self, item_rows: np.ndarray, text: RaggedFeatures, image: RaggedFeatures, device: torch.device
    ) -> None:
        """Keep references; nothing is copied yet."""
        self.item_rows = item_rows
        self.text = text
        self.image = image
        self.device = device

    def tokens(self, item_ids: np.ndarray) -> ItemTokens:
        """Gather the features of some items.

        Args:
            item_ids: int ``(M,)`` compact ids, 0 not among them.
        """
        rows = self.item_rows[item_ids - 1]
        parts = (*self.text.gather(rows), *self.image.gather(rows))
        return ItemTokens(*(torch.from_numpy(part).to(self.device, non_blocking=True) for part in parts))

    def summaries(self) -> tuple[Tensor, Tensor]:
        """Return every item's first text and first image token, ``(n, width)`` each."""
        summaries = (self.text.summary(self.item_rows), self.image.summary(self.item_rows))
        return torch.from_numpy(summaries[0]).to(self.device), torch.from_numpy(summaries[1]).to(self.device)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, ItemTokens]]:
        """Yield the items 1..n in order, ``size`` at a time."""
        for start in range(1, len(self.item_rows) + 1, size):
            item_ids = np.arange(start, min(start + size, len(self.item_rows) + 1))
            yield torch.from_numpy(item_ids).to(self.device), self.tokens(item_ids)


class TrainingBatches:
    """The training windows of all users, in another order every epoch."""

    def __init__(
        self, split: DevelopmentSplit, features: ItemFeatures, *, batch_size: int, popularity_power: float, seed: int
    ) -> None:
        """Build the windows once."""
        self.windows_US = training_windows(split)
        probabilities = item_probabilities(split, popularity_power).astype(np.float32)
        with np.errstate(divide="ignore"):  # items of validation or test only never stand in a batch
            self.log_popularity = np.log(probabilities)
        self.features = features
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.windows_US) // self.batch_size)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; the last one may be smaller."""
        order = user_order(self.seed, epoch, len(self.windows_US))
        for start in range(0, len(order), self.batch_size):
            yield self.batch(self.windows_US[order[start : start + self.batch_size]])

    def batch(self, slots_BS: np.ndarray) -> Batch:
        """Make the batch of some windows; every item's features are gathered once."""
        unique, inverse = np.unique(slots_BS, return_inverse=True)
        has_padding = int(unique[0] == 0)
        item_ids = unique[has_padding:]
        slot_item = inverse.reshape(slots_BS.shape) + (1 - has_padding)
        arrays = (slots_BS, item_ids, slot_item)
        slots, ids, places = (torch.from_numpy(array).to(self.features.device) for array in arrays)
        log_popularity = torch.from_numpy(self.log_popularity[slots_BS]).to(self.features.device)
        return Batch(slots, ids, places, self.features.tokens(item_ids), log_popularity)
