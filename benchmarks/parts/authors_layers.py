"""The authors' layers: separate queries, keys and values, explicit softmax, padded rectangles. torch alone.

Shape letters, used as name suffixes in this file:
    B users, L input positions, K tokens (of an item or a sequence), H heads, D width
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

BRANCHES = ("id", "text", "image")
LAYER_NORM_EPS = 1e-6
MASKED_POSITION = -1e9


class Sizes(NamedTuple):
    """What a model is made from."""

    num_items: int
    text_dim: int
    image_dim: int
    id_dim: int
    width: int
    max_seq_len: int
    fusion_layers: int = 2
    fusion_heads: int = 2
    id_masking: bool = True
    sequence_layers: int = 2
    sequence_heads: int = 2
    dropout: float = 0.1


class Attention(nn.Module):
    """Explicit multi-head attention, residual sum, LayerNorm."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.weight_dropout = nn.Dropout(dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BKD: Tensor, added_B1KK: Tensor) -> Tensor:
        """Attend; ``added_B1KK`` is added to the scores, broadcast over heads."""
        query, key, value = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(x_BKD), self.key(x_BKD), self.value(x_BKD))
        )
        scores_BHKK = query @ key.transpose(2, 3) / math.sqrt(query.shape[3]) + added_B1KK
        weights_BHKK = self.weight_dropout(torch.softmax(scores_BHKK, dim=3))
        merged_BKD = (weights_BHKK @ value).transpose(1, 2).flatten(2)
        return self.layer_norm(x_BKD + self.dropout(self.output(merged_BKD)))


class FeedForward(nn.Module):
    """``Linear, ReLU, Linear`` of inner width 4D, residual sum, LayerNorm."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BKD: Tensor) -> Tensor:
        """Transform every token by itself; same shape."""
        return self.layer_norm(x_BKD + self.dropout(self.contract(torch.relu(self.expand(x_BKD)))))


class Block(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x_BKD: Tensor, added_B1KK: Tensor) -> Tensor:
        """Apply the block."""
        return self.feed_forward(self.attention(x_BKD, added_B1KK))


class SequenceEncoder(nn.Module):
    """SASRec over left-padded rectangles."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.position_embedding = nn.Embedding(sizes.max_seq_len, sizes.width)
        self.layer_norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(
            Block(sizes.width, sizes.sequence_heads, sizes.dropout) for _ in range(sizes.sequence_layers)
        )

    def forward(self, items_BLD: Tensor, real_BL: Tensor) -> Tensor:
        """Return the state after each position, ``(B, L, D)``; ``real_BL`` is False at padding."""
        length = items_BLD.shape[1]
        positions_L = torch.arange(length, device=items_BLD.device)
        x_BLD = self.dropout(self.layer_norm(items_BLD + self.position_embedding(positions_L)))
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=items_BLD.device).tril()
        added_B1LL = torch.where(real_BL[:, None, None, :] & causal_LL, 0.0, MASKED_POSITION)
        for block in self.blocks:
            x_BLD = block(x_BLD, added_B1LL)
        return x_BLD


def split_projections(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give parameters under our names their names here: ``qkv`` is three matrices."""
    theirs = {}
    for name, value in ours.items():
        if name.endswith(".qkv.weight"):
            stem = name.removesuffix("qkv.weight")
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            theirs |= {f"{stem}{part}.weight": rows for part, rows in parts}
        else:
            theirs[name] = value
    return theirs
