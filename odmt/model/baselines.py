"""The baselines' item encoders, and the choice of an item encoder by name.

Source of the baselines: Ji et al., ACM MM 2023, arXiv:2308.04067, section on the compared methods.

Shape letters, used as name suffixes in this file:
    M items, T text tokens, V image tokens, E width of the ID table, D width
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odmt.model.fusion import ContentTransformer
from odmt.model.items import (
    THREE_BRANCHES,
    ImtItems,
    ItemEncoder,
    ItemShape,
    ItemTokens,
    Reads,
    make_head,
    make_id_table,
    make_projections,
)

ItemEncoderName = Literal["imt", "late", "early-sum", "early-concat", "non-invasive", "id", "text", "image"]


class LateItems(ItemEncoder):
    """Three branches that never meet before scoring: projection of the summary token, then a head, for each."""

    branches = THREE_BRANCHES
    reads: Reads = "summaries"

    def __init__(self, shape: ItemShape) -> None:
        """Make the encoder."""
        super().__init__()
        self.id_table: nn.Embedding = make_id_table(shape)
        self.id_projection, self.text_projection, self.image_projection = make_projections(shape)
        self.heads = nn.ModuleDict({name: make_head(shape.width) for name in self.branches})

    def forward(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        """See ItemEncoder."""
        projected = {
            "id": self.id_projection(id_ME),
            "text": self.text_projection(tokens.text[:, 0]),
            "image": self.image_projection(tokens.image[:, 0]),
        }
        return tuple(self.heads[name](projected[name]) for name in self.branches)


class EarlyItems(ItemEncoder):
    """One branch over the three projected vectors, summed or concatenated, then two Linear with LeakyReLU."""

    branches = ("joint",)
    reads: Reads = "summaries"

    def __init__(self, shape: ItemShape, combine: Literal["sum", "concat"]) -> None:
        """Make the encoder; ``combine`` says how the three vectors meet."""
        super().__init__()
        self.combine = combine
        self.id_table: nn.Embedding = make_id_table(shape)
        self.id_projection, self.text_projection, self.image_projection = make_projections(shape)
        self.head = make_head(shape.width, inputs=shape.width * (3 if combine == "concat" else 1))

    def forward(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        """See ItemEncoder."""
        parts = [
            self.id_projection(id_ME),
            self.text_projection(tokens.text[:, 0]),
            self.image_projection(tokens.image[:, 0]),
        ]
        joint = torch.cat(parts, dim=1) if self.combine == "concat" else parts[0] + parts[1] + parts[2]
        return (self.head(joint),)


class NonInvasiveItems(ItemEncoder):
    """One branch: content vectors are added inside the ID's own two layers.

    ``LeakyReLU(W2 LeakyReLU(W1 id) + m)``, m = text summary token of a transformer over text and image tokens only.
    Source: the fusion that Ji et al., ACM MM 2023, compare with, after Liu et al., arXiv:2103.03578.
    """

    branches = ("joint",)
    reads: Reads = "all"

    def __init__(self, shape: ItemShape) -> None:
        """Make the encoder."""
        super().__init__()
        self.id_table: nn.Embedding = make_id_table(shape)
        self.id_inner = nn.Linear(shape.id_dim, shape.width)
        self.id_outer = nn.Linear(shape.width, shape.width)
        self.text_projection = nn.Linear(shape.text_dim, shape.width)
        self.image_projection = nn.Linear(shape.image_dim, shape.width)
        self.content = ContentTransformer(shape.width, shape.num_layers, shape.num_heads, shape.dropout)

    def forward(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        """See ItemEncoder."""
        content = self.content(
            self.text_projection(tokens.text), self.image_projection(tokens.image), tokens.text_mask, tokens.image_mask
        )
        inner = F.leaky_relu(self.id_inner(id_ME))
        return (F.leaky_relu(self.id_outer(inner) + content),)


class IdItems(ItemEncoder):
    """One branch: the ID embedding itself, no projection, no head (plain SASRec: one table for input and scoring)."""

    branches = ("id",)
    reads: Reads = "nothing"

    def __init__(self, shape: ItemShape) -> None:
        """Make the encoder.

        Raises:
            ValueError: the ID table is not as wide as the model.
        """
        super().__init__()
        if shape.id_dim != shape.width:
            raise ValueError(
                f"model.item_encoder: 'id' scores with the ID table itself, which must be as wide as "
                f"model.embedding_dim {shape.width}, got {shape.id_dim}"
            )
        self.id_table: nn.Embedding = make_id_table(shape)

    def forward(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        """See ItemEncoder."""
        return (id_ME,)


class ContentItems(ItemEncoder):
    """One branch: the projected summary token of one modality, then a head; no ID."""

    reads: Reads = "summaries"
    id_table = None

    def __init__(self, shape: ItemShape, modality: Literal["text", "image"]) -> None:
        """Make the encoder of one modality."""
        super().__init__()
        self.branches = (modality,)
        self.projection = nn.Linear(shape.text_dim if modality == "text" else shape.image_dim, shape.width)
        self.head = make_head(shape.width)

    def forward(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        """See ItemEncoder."""
        summary = tokens.text[:, 0] if self.branches == ("text",) else tokens.image[:, 0]
        return (self.head(self.projection(summary)),)


def make_item_encoder(name: ItemEncoderName, shape: ItemShape, *, id_masking: bool) -> ItemEncoder:
    """Make an item encoder by name; ``id_masking`` matters to ``imt`` only.

    Raises:
        ValueError: the sizes do not fit the encoder.
    """
    match name:
        case "imt":
            return ImtItems(shape, id_masking)
        case "late":
            return LateItems(shape)
        case "early-sum":
            return EarlyItems(shape, "sum")
        case "early-concat":
            return EarlyItems(shape, "concat")
        case "non-invasive":
            return NonInvasiveItems(shape)
        case "id":
            return IdItems(shape)
        case "text" | "image":
            return ContentItems(shape, name)
