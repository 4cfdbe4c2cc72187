"""The frozen features of a split's items, gathered into groups of tokens on the training device.

Shape letters: M items, T tokens of the longest item of a group, D feature width.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from odmt.errors import DataError
from odmt.features.ragged import RaggedFeatures
from odmt.model.items import ItemTokens, Reads
from odmt.training.modality import Modality, summaries_of

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
        bare = np.flatnonzero(text.lengths[item_rows] + image.lengths[item_rows] == 0)
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
        self.on_device = reads != "nothing" and lives_on_device(residence, text.nbytes + image.nbytes, device)
        where = device if self.on_device else None
        self.text, self.image = Modality(text, item_rows, where), Modality(image, item_rows, where)

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


def lives_on_device(residence: Residence, num_bytes: int, device: torch.device) -> bool:
    """Tell whether features of this size are to be copied onto the device."""
    if device.type == "cpu" or residence == "host":
        return False
    if residence == "device":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= DEVICE_SHARE * free
