"""Item encoders: from an item's ID, text and image to one vector a branch.

The full method here; the baselines of its evaluation, which differ in nothing else, beside it. Each encoder says which
branches it gives and how much of the frozen features it reads.

Shape letters, used as name suffixes in this file:
    M items, T text tokens, V image tokens, E width of the ID table, D width
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from odmt.model.fusion import IdAwareMultimodalTransformer

IdInit = Literal["random", "text", "image", "text+image"]
Reads = Literal["all", "summaries", "nothing"]
"""How much of an item's tokens an encoder reads: all, the first of each modality, or none."""

THREE_BRANCHES = ("id", "text", "image")


class ItemTokens(NamedTuple):
    """Frozen features of M items.

    Attributes:
        text: float16 or wider ``(M, T, text width)``; token 0 is the summary token.
        text_mask: bool ``(M, T)``, True at real tokens; None = all real.
        image: float16 or wider ``(M, V, image width)``; token 0 is the summary token.
        image_mask: bool ``(M, V)``; None = all real.
    """

    text: Tensor
    text_mask: Tensor | None
    image: Tensor
    image_mask: Tensor | None


class ItemShape(NamedTuple):
    """Sizes of an item encoder.

    Attributes:
        num_items: N, padding not counted.
        text_dim: width of the text features.
        image_dim: width of the image features.
        id_dim: width of the ID table.
        width: D.
        num_layers: blocks of the transformer over tokens.
        num_heads: attention heads of each.
        dropout: probability in it.
    """

    num_items: int
    text_dim: int
    image_dim: int
    id_dim: int
    width: int
    num_layers: int
    num_heads: int
    dropout: float


class ItemEncoder(nn.Module, ABC):
    """Common ground of all item encoders.

    Attributes:
        branches: names of the vectors that ``forward`` returns, in order.
        reads: how much of the tokens it reads.
        id_table: ``(N + 1, id width)``, row 0 = padding; None where no ID takes part.
    """

    branches: tuple[str, ...]
    reads: Reads
    id_table: nn.Embedding | None

    def embed(self, item_ids: Tensor) -> Tensor:
        """Look items up in the ID table, ``(M, id width)``; width 0 where no ID takes part.

        Apart from ``forward`` so that a batch of several groups looks up once: each lookup's gradient is a whole table.
        """
        if self.id_table is None:
            return torch.empty(len(item_ids), 0, device=item_ids.device)
        rows: Tensor = self.id_table(item_ids)
        return rows

    @abstractmethod
    def forward(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        """Encode items.

        Args:
            id_ME: what ``embed`` gives for them.
            tokens: their features; the first token alone where ``reads`` is ``summaries``.

        Returns:
            ``(M, D)`` a branch.
        """

    @torch.no_grad()
    def start_id_table(self, start: IdInit, text_summary: Tensor, image_summary: Tensor) -> None:
        """Copy summary features into the rows 1..n of the ID table (the released code aliases them: a defect).

        Args:
            start: which features; ``random`` leaves the table as it is.
            text_summary: float ``(n, text width)``, first text token of each item.
            image_summary: float ``(n, image width)``, first image token of each item.

        Raises:
            ValueError: the features' width is not the table's.
        """
        if start == "random" or self.id_table is None:
            return
        for name, summary in (("text", text_summary), ("image", image_summary)):
            if name in start and summary.shape[1] != self.id_table.embedding_dim:
                raise ValueError(
                    f"model.id_init: {start!r} needs an ID table as wide as the {name} features, "
                    f"got {self.id_table.embedding_dim} and {summary.shape[1]}"
                )
        parts = {"text": [text_summary], "image": [image_summary], "text+image": [image_summary, text_summary]}[start]
        self.id_table.weight[1:] = torch.stack(parts).mean(dim=0)


class ImtItems(ItemEncoder):
    """The full method: a projection a modality, the ID-aware multi-modal transformer, a two-layer head a branch.

    Source: Ji et al., ACM MM 2023, arXiv:2308.04067, as released.
    """

    branches = THREE_BRANCHES
    reads: Reads = "all"

    def __init__(self, shape: ItemShape, id_masking: bool) -> None:
        """Make the encoder; ``id_masking`` as in the IMT."""
        super().__init__()
        self.id_table: nn.Embedding = make_id_table(shape)
        self.id_projection, self.text_projection, self.image_projection = make_projections(shape)
        self.fusion = IdAwareMultimodalTransformer(
            shape.width, shape.num_layers, shape.num_heads, shape.dropout, id_masking
        )
        self.heads = nn.ModuleDict({name: make_head(shape.width) for name in self.branches})

    def forward(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        """See ItemEncoder."""
        fused = self.fusion(
            self.id_projection(id_ME),
            self.text_projection(tokens.text),
            self.image_projection(tokens.image),
            tokens.text_mask,
            tokens.image_mask,
        )
        return tuple(self.heads[name](getattr(fused, name)) for name in self.branches)


def make_id_table(shape: ItemShape) -> nn.Embedding:
    """Make an ID table that starts xavier normal."""
    table = nn.Embedding(shape.num_items + 1, shape.id_dim)
    nn.init.xavier_normal_(table.weight)
    return table


def make_projections(shape: ItemShape) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Make the projections of ID, text and image to the model's width."""
    widths = (shape.id_dim, shape.text_dim, shape.image_dim)
    of_id, of_text, of_image = (nn.Linear(width, shape.width) for width in widths)
    return of_id, of_text, of_image


def make_head(width: int, inputs: int | None = None) -> nn.Sequential:
    """Make a branch's two-layer head."""
    return nn.Sequential(nn.Linear(inputs or width, width), nn.LeakyReLU(), nn.Linear(width, width))
