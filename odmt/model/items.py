"""Item encoders: from an item's ID, text and image to one vector a branch.

The full method (``imt``), and the baselines of its evaluation, which differ in nothing else. Each encoder says which
branches it gives and how much of the frozen features it reads.

Shape letters, used as name suffixes in this file:
    M items, T text tokens, V image tokens, E width of the ID table, D width
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odmt.model.fusion import ContentTransformer, IdAwareMultimodalTransformer

IdInit = Literal["random", "text", "image", "text+image"]
ItemEncoderName = Literal["imt", "late", "early-sum", "early-concat", "non-invasive", "id", "text", "image"]
Reads = Literal["all", "summaries", "nothing"]
"""How much of an item's tokens an encoder reads: all, the first of each modality, or none."""

THREE_BRANCHES = ("id", "text", "image")


class ItemTokens(NamedTuple):
    """Frozen features of M items.

    Attributes:
        text: float ``(M, T, text width)``; token 0 is the summary token.
        text_mask: bool ``(M, T)``, True at real tokens; None = all real.
        image: float ``(M, V, image width)``; token 0 is the summary token.
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


class ItemEncoder(nn.Module):
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

    def forward(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        """Encode items.

        Args:
            id_ME: what ``embed`` gives for them.
            tokens: their features; the first token alone where ``reads`` is ``summaries``.

        Returns:
            ``(M, D)`` a branch.
        """
        raise NotImplementedError

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
        self.id_table: nn.Embedding = _id_table(shape)
        self.id_projection, self.text_projection, self.image_projection = _projections(shape)
        self.fusion = IdAwareMultimodalTransformer(
            shape.width, shape.num_layers, shape.num_heads, shape.dropout, id_masking
        )
        self.heads = nn.ModuleDict({name: _head(shape.width) for name in self.branches})

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


class LateItems(ItemEncoder):
    """Three branches that never meet before scoring: projection of the summary token, then a head, for each."""

    branches = THREE_BRANCHES
    reads: Reads = "summaries"

    def __init__(self, shape: ItemShape) -> None:
        """Make the encoder."""
        super().__init__()
        self.id_table: nn.Embedding = _id_table(shape)
        self.id_projection, self.text_projection, self.image_projection = _projections(shape)
        self.heads = nn.ModuleDict({name: _head(shape.width) for name in self.branches})

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
        self.id_table: nn.Embedding = _id_table(shape)
        self.id_projection, self.text_projection, self.image_projection = _projections(shape)
        self.head = _head(shape.width, inputs=shape.width * (3 if combine == "concat" else 1))

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
        self.id_table: nn.Embedding = _id_table(shape)
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
        self.id_table: nn.Embedding = _id_table(shape)

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
        self.head = _head(shape.width)

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


def _id_table(shape: ItemShape) -> nn.Embedding:
    table = nn.Embedding(shape.num_items + 1, shape.id_dim)
    nn.init.xavier_normal_(table.weight)
    return table


def _projections(shape: ItemShape) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    widths = (shape.id_dim, shape.text_dim, shape.image_dim)
    of_id, of_text, of_image = (nn.Linear(width, shape.width) for width in widths)
    return of_id, of_text, of_image


def _head(width: int, inputs: int | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs or width, width), nn.LeakyReLU(), nn.Linear(width, width))
