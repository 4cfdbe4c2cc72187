"""Sequence encoders (backbones): from item vectors in order to a user state at every position.

Sequences come packed: one row a real position, no padding; see SequenceLayout.

Shape letters, used as name suffixes in this file:
    B users, R rows (real positions of all users), P longest sequence of the batch, D width
"""

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from odmt.model.attention import LAYER_NORM_EPS, TransformerBlock, blocks_of
from odmt.model.dropout import Dropout
from odmt.model.gru4rec import Gru4Rec
from odmt.model.layout import SequenceLayout
from odmt.model.nextitnet import NextItNet

Backbone = Literal["sasrec", "gru4rec", "nextitnet"]


class SequenceEncoder(Protocol):
    """What every backbone does."""

    def __call__(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        """Return the state after each position, ``(R, D)``; it depends on that position and those before it."""
        ...

    def last_states(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        """Return the state after each user's last position, ``(B, D)``."""
        ...


class SasRec(nn.Module):
    """Causal post-LN transformer.

    Source: Kang and McAuley, ICDM 2018, in the form of the released ODMT code: position embedding added to the item
    vector, LayerNorm, dropout, blocks. Linear and Embedding weights start xavier normal, biases 0.
    """

    def __init__(self, width: int, max_seq_len: int, num_layers: int, num_heads: int, dropout: float) -> None:
        """Make an encoder for at most ``max_seq_len`` positions."""
        super().__init__()
        self.position_embedding = nn.Embedding(max_seq_len, width)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads, dropout) for _ in range(num_layers))
        self.apply(_start_xavier_normal)

    def forward(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        """Return the state after each position.

        Args:
            items_RD: item vectors of the real positions.
            layout: where they stand; its ``position`` chooses the position embedding.
        """
        x_RD = self._start(items_RD, layout)
        for block in blocks_of(self.blocks):
            x_RD = _causal(block, x_RD, layout)
        return x_RD

    def last_states(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        """Return the state after each user's last position, ``(B, D)``; the last block is computed there alone.

        Raises:
            ValueError: a user has no items.
        """
        last_B = layout.last_rows()
        x_RD = self._start(items_RD, layout)
        *inner, last = blocks_of(self.blocks)
        for block in inner:
            x_RD = _causal(block, x_RD, layout)
        real_BP = layout.pad(torch.ones_like(x_RD[:, :1])).squeeze(2) != 0
        return last.read(x_RD[last_B].unsqueeze(1), layout.pad(x_RD), real_BP.unsqueeze(1)).squeeze(1)

    def _start(self, items_RD: Tensor, layout: SequenceLayout) -> Tensor:
        placed = items_RD + self.position_embedding(layout.position)
        started: Tensor = self.dropout(self.layer_norm(placed))
        return started


def _causal(block: TransformerBlock, x_RD: Tensor, layout: SequenceLayout) -> Tensor:
    """Apply a block to packed rows: only the attention itself sees the rectangle."""
    attention = block.attention
    qkv_BPD = layout.pad(attention.qkv(x_RD))
    mixed_BPD = attention.mix(*attention.heads_of(qkv_BPD), is_causal=True)
    transformed: Tensor = block.feed_forward(attention.finish(x_RD, layout.pack(mixed_BPD)))
    return transformed


def make_backbone(
    name: Backbone,
    *,
    width: int,
    max_seq_len: int,
    num_layers: int,
    num_heads: int,
    kernel_size: int,
    dropout: float,
) -> SasRec | Gru4Rec | NextItNet:
    """Make a sequence encoder by name; ``num_heads`` matters to sasrec only, ``kernel_size`` to nextitnet only."""
    match name:
        case "sasrec":
            return SasRec(width, max_seq_len, num_layers, num_heads, dropout)
        case "gru4rec":
            return Gru4Rec(width, num_layers, dropout)
        case "nextitnet":
            return NextItNet(width, num_layers, kernel_size, dropout)


def _start_xavier_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        stacked = module.out_features // module.in_features if module.bias is None else 1
        for part in module.weight.detach().chunk(stacked):  # each projection of a stacked one for itself
            nn.init.xavier_normal_(part)
    if isinstance(module, nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
