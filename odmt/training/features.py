"""The frozen features of a split's items, gathered into groups of tokens on the training device.

Shape letters, used as name suffixes in this file:
    M items, T tokens of the longest item of a group, D feature width
"""

import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from odmt.errors import DataError
from odmt.features.ragged import RaggedFeatures
from odmt.model.items import ItemTokens, Reads

Residence = Literal["auto", "device", "host"]

GROUP_ELEMENTS = 1 << 20
"""Tokens x width of one group on a CPU: 4 MiB an activation, so that a block's few activations stay in its cache."""

GPU_GROUPS, GPU_GROUP_ELEMENTS = 4, 1 << 27
"""Groups of a batch on a GPU: enough to drop most padding, few enough to keep the kernels large; and tokens x width of
one at most (256 MiB an activation in bf16), since the full softmax encodes the whole catalogue."""

DEVICE_SHARE = 0.5
"""Features go onto the GPU if they take at most this share of its free memory."""


class ItemFeatures:
    """Features of the items 1..n of a split; every gather is a copy."""

    def __init__(
        self,
        item_rows: np.ndarray,
        text: RaggedFeatures,
        image: RaggedFeatures,
        device: torch.device,
        *,
        reads: Reads = "all",
        residence: Residence = "auto",
        items_per_group: int | None = None,
        width: int | None = None,
    ) -> None:
        """Take the features; on a GPU where they fit they are copied there once, in float16.

        Args:
            item_rows: int ``(n,)``, catalogue row of compact id ``i + 1``.
            text: features of the whole catalogue.
            image: the same.
            device: where tokens are wanted.
            reads: how much of an item's tokens is wanted.
            residence: ``device``, ``host``, or ``auto``: on the device if they fit.
            items_per_group: largest group; None = by the device.
            width: of the activations, for the size of groups; None = of the text features.

        Raises:
            DataError: an item has neither a text nor an image token.
        """
        self.device = device
        self.reads = reads
        self.items_per_group = items_per_group
        self.width = width or text.width
        self.num_items = len(item_rows)
        lengths = [np.diff(part.offsets)[item_rows] for part in (text, image)]
        bare = np.flatnonzero(lengths[0] + lengths[1] == 0)
        if reads != "nothing" and len(bare):
            raise DataError(
                f"{len(bare)} items have neither a text nor an image token, the first in catalogue row "
                f"{int(item_rows[bare[0]])}; prepare the data set again"
            )
        if reads == "summaries":
            text, image, item_rows = (
                summaries_of(text, item_rows),
                summaries_of(image, item_rows),
                np.arange(len(item_rows)),
            )
        num_bytes = text.tokens.nbytes + image.tokens.nbytes
        self.on_device = reads != "nothing" and lives_on_device(residence, num_bytes, device)
        where = device if self.on_device else torch.device("cpu")
        self.text, self.image = _Modality(text, item_rows, where), _Modality(image, item_rows, where)

    def arranged(self, item_ids: np.ndarray) -> np.ndarray:
        """Return the order that puts items of like lengths together: int ``(M,)`` places in ``item_ids``."""
        if self.reads != "all":
            return np.arange(len(item_ids))
        return np.lexsort((self.text.lengths[item_ids - 1], self.image.lengths[item_ids - 1]))

    def groups(self, item_ids: np.ndarray) -> tuple[ItemTokens, ...]:
        """Gather the features of arranged items, a group at a time; only a group's own longest item pads it.

        Args:
            item_ids: int ``(M,)`` compact ids, 0 not among them.

        Returns:
            Consecutive runs of the items; float16 tokens, as they are kept.
        """
        return tuple(self._tokens(part) for part in self._parts(item_ids))

    def chunks(self, size: int) -> Iterator[tuple[Tensor, tuple[ItemTokens, ...]]]:
        """Yield all items, arranged, ``size`` at a time."""
        item_ids = np.arange(1, self.num_items + 1)
        item_ids = item_ids[self.arranged(item_ids)]
        for start in range(0, len(item_ids), size):
            part = item_ids[start : start + size]
            yield torch.from_numpy(part).to(self.device), self.groups(part)

    def summaries(self) -> tuple[Tensor, Tensor]:
        """Return every item's first text and first image token, float32 ``(n, width)`` each; zeros for none."""
        everything = np.arange(self.num_items)
        text, image = (modality.gather(everything, 1)[0][:, 0].float() for modality in (self.text, self.image))
        return text.to(self.device), image.to(self.device)

    def check_summaries(self, start: str) -> None:
        """Check that every item has the summary tokens that an ID table starts from.

        Args:
            start: ``model.id_init``.

        Raises:
            DataError: an item lacks one.
        """
        for name, modality in (("text", self.text), ("image", self.image)):
            lacking = np.flatnonzero(modality.lengths == 0)
            if name in start and len(lacking):
                raise DataError(
                    f"{len(lacking)} items, the first with compact id {int(lacking[0]) + 1}, have no {name} token to "
                    f"start their ID embedding from, as model.id_init {start} wants; set model.id_init: random"
                )

    def _parts(self, item_ids: np.ndarray) -> list[np.ndarray]:
        if self.items_per_group is not None:
            size = self.items_per_group
        elif self.reads != "all":
            return [item_ids]
        elif self.device.type == "cpu":
            longest = (self.text.lengths[item_ids - 1] + self.image.lengths[item_ids - 1]).max(initial=1) + 1
            size = max(8, GROUP_ELEMENTS // (int(longest) * self.width))
        else:
            longest = (self.text.lengths[item_ids - 1] + self.image.lengths[item_ids - 1]).max(initial=1) + 1
            most = max(8, GPU_GROUP_ELEMENTS // (int(longest) * self.width))
            size = min(-(-len(item_ids) // GPU_GROUPS), most)
        return np.array_split(item_ids, max(1, -(-len(item_ids) // size)))

    def _tokens(self, item_ids: np.ndarray) -> ItemTokens:
        if self.reads == "nothing":
            empty = torch.empty(len(item_ids), 1, 0, device=self.device)
            return ItemTokens(empty, None, empty, None)
        limit = 1 if self.reads == "summaries" else None
        text, text_mask = self.text.gather(item_ids - 1, limit)
        image, image_mask = self.image.gather(item_ids - 1, limit)
        return ItemTokens(*(self._moved(part) for part in (text, text_mask, image, image_mask)))  # type: ignore[arg-type]

    def _moved(self, part: Tensor | None) -> Tensor | None:
        if part is None or part.device.type == self.device.type:  # cuda and cuda:0 are unequal, and the same here
            return part
        return part.pin_memory().to(self.device, non_blocking=True)


class _Modality:
    """One modality's tokens as a tensor, and where each item's tokens stand in it."""

    def __init__(self, features: RaggedFeatures, item_rows: np.ndarray, device: torch.device) -> None:
        with warnings.catch_warnings():  # shared memory is read-only, and nothing here writes to it
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.tokens = torch.from_numpy(features.tokens).to(device)
        self.starts = features.offsets[item_rows]
        self.lengths = np.diff(features.offsets)[item_rows]

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
        longest = max(1, int(lengths.max(initial=0)))
        width = self.tokens.shape[1]
        if len(self.tokens) == 0:
            empty = torch.zeros(len(places), longest, width, dtype=self.tokens.dtype, device=self.tokens.device)
            return empty, torch.zeros(len(places), longest, dtype=torch.bool, device=self.tokens.device)
        real = np.arange(longest) < lengths[:, None]
        index = np.where(real, self.starts[places][:, None] + np.arange(longest), 0)
        flat = torch.from_numpy(index.reshape(-1)).to(self.tokens.device)
        gathered = self.tokens.index_select(0, flat).view(len(places), longest, width)
        if real.all():
            return gathered, None
        mask = torch.from_numpy(real).to(self.tokens.device)
        return gathered.masked_fill_(~mask.unsqueeze(2), 0.0), mask


def summaries_of(features: RaggedFeatures, item_rows: np.ndarray) -> RaggedFeatures:
    """Copy the first token of each item that has any; row ``i`` of the result is item ``i + 1``."""
    starts, has_tokens = features.offsets[item_rows], np.diff(features.offsets)[item_rows] > 0
    return RaggedFeatures(features.tokens[starts[has_tokens]], np.append(0, np.cumsum(has_tokens)))


def lives_on_device(residence: Residence, num_bytes: int, device: torch.device) -> bool:
    """Tell whether features of this size are to be copied onto the device."""
    if device.type == "cpu" or residence == "host":
        return False
    if residence == "device":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= DEVICE_SHARE * free
