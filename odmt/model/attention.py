"""The post-LN transformer block that the fusion and the sequence encoders share.

Shape letters, used as name suffixes in this file:
    B rows, Q queries, K keys, H heads, D width, E = D / H
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odmt.model.dropout import Dropout

LAYER_NORM_EPS = 1e-6


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with projections without bias, residual sum and LayerNorm.

    Attributes:
        qkv: the query, key and value projections, stacked in this order; one product instead of three.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        """Make a layer.

        Raises:
            ValueError: ``num_heads`` does not divide ``width``.
        """
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"num_heads: {num_heads} does not divide the width {width}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        for part in self.qkv.weight.detach().chunk(3):  # as three layers of their own would start
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))
        self.output = nn.Linear(width, width, bias=False)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def split(self, x_BKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project to queries, keys and values, each ``(B, H, K, E)``."""
        return self.heads_of(self.qkv(x_BKD))

    def heads_of(self, qkv_BKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take stacked projections ``(B, K, 3D)`` apart into queries, keys and values, each ``(B, H, K, E)``."""
        num_rows, length, stacked = qkv_BKD.shape
        qkv = qkv_BKD.view(num_rows, length, 3, self.num_heads, stacked // 3 // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def mix(
        self, query: Tensor, key: Tensor, value: Tensor, readable: Tensor | None = None, *, is_causal: bool = False
    ) -> Tensor:
        """Average values by softmax attention.

        Args:
            query: ``(B, H, Q, E)``.
            key: ``(B, H, K, E)``.
            value: ``(B, H, K, E)``.
            readable: bool, broadcastable to ``(B, H, Q, K)``, True where a query may read a key; None = everywhere. A
                query must be able to read at least one key.
            is_causal: a query reads no later key; only without ``readable``.

        Returns:
            ``(B, Q, D)``, heads merged.
        """
        drop = self.dropout.p if self.training else 0.0
        if drop > 0 and query.device.type == "cpu":
            return self._mix_by_head(query, key, value, readable, is_causal)
        mixed: Tensor = F.scaled_dot_product_attention(
            query, key, value, attn_mask=readable, dropout_p=drop, is_causal=is_causal
        )
        return mixed.transpose(1, 2).flatten(2)

    def _mix_by_head(
        self, query: Tensor, key: Tensor, value: Tensor, readable: Tensor | None, is_causal: bool
    ) -> Tensor:
        """Mix head by head: a CPU has no fused attention with dropout, and strided heads need no copy this way."""
        if is_causal:
            readable = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
        hidden = None if readable is None else ~readable
        mixed = []
        scaled = query * (1.0 / math.sqrt(query.shape[3]))
        for head in range(self.num_heads):
            scores = torch.bmm(scaled[:, head], key[:, head].transpose(1, 2))
            if hidden is not None:
                part = hidden if hidden.dim() < 4 else hidden[:, 0 if hidden.shape[1] == 1 else head]
                scores.masked_fill_(part, -math.inf)
            mixed.append(torch.bmm(self.dropout(torch.softmax(scores, dim=2)), value[:, head]))
        return torch.cat(mixed, dim=2)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Output projection, dropout, residual sum and LayerNorm; any leading shape."""
        normed: Tensor = self.layer_norm(x + self.dropout(self.output(mixed)))
        return normed

    def read(self, x_BQD: Tensor, x_BKD: Tensor, readable_BQK: Tensor | None) -> Tensor:
        """Let few queries read many tokens, without keys and values of their own for every token.

        ``(x W_q)(y W_k)^T = (x W_q W_k^T) y^T`` and ``p (y W_v) = (p y) W_v``: the projections of keys and values move
        to the queries' side, which costs Q products of the width instead of K. Equal up to rounding.

        Args:
            x_BQD: inputs at the queries.
            x_BKD: inputs at the tokens to be read.
            readable_BQK: bool, broadcastable to ``(B, Q, K)``; None = everywhere.

        Returns:
            ``(B, Q, D)``.
        """
        num_rows, num_queries, width = x_BQD.shape
        heads, per_head = self.num_heads, width // self.num_heads
        to_query, to_key, to_value = self.qkv.weight.chunk(3)
        query = F.linear(x_BQD, to_query * (1.0 / math.sqrt(per_head)))
        by_head = query.view(-1, heads, per_head).transpose(0, 1)
        absorbed = torch.bmm(by_head, to_key.view(heads, per_head, width))
        asking = absorbed.view(heads, num_rows, num_queries, width).permute(1, 2, 0, 3).flatten(1, 2)
        scores = torch.bmm(asking, x_BKD.transpose(1, 2)).view(num_rows, num_queries, heads, -1)
        if readable_BQK is not None:
            scores = scores.masked_fill(~readable_BQK.unsqueeze(2), -math.inf)
        weights = self.dropout(torch.softmax(scores, dim=3)).flatten(1, 2)
        averaged = torch.bmm(weights, x_BKD)
        by_head = averaged.view(-1, heads, width).transpose(0, 1)
        values = torch.bmm(by_head, to_value.view(heads, per_head, width).transpose(1, 2))
        mixed = values.transpose(0, 1).reshape(num_rows, num_queries, width)
        return self.finish(x_BQD, mixed)


class FeedForward(nn.Module):
    """``Linear, ReLU, Linear`` of inner width 4D, residual sum and LayerNorm."""

    def __init__(self, width: int, dropout: float) -> None:
        """Make a layer."""
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every position by itself; same shape."""
        inner = torch.relu_(self.expand(x))
        normed: Tensor = self.layer_norm(x + self.dropout(self.contract(inner)))
        return normed


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, LayerNorm after each residual sum (post-LN)."""

    attention: MultiHeadAttention
    feed_forward: FeedForward

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        """Make a block."""
        super().__init__()
        self.attention = MultiHeadAttention(width, num_heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def read(self, x_BQD: Tensor, x_BKD: Tensor, readable_BQK: Tensor | None) -> Tensor:
        """Apply the block to few positions that read many; see ``MultiHeadAttention.read``."""
        transformed: Tensor = self.feed_forward(self.attention.read(x_BQD, x_BKD, readable_BQK))
        return transformed


def blocks_of(blocks: nn.ModuleList) -> list[TransformerBlock]:
    """Return the blocks of a stack with their type."""
    return cast(list[TransformerBlock], list(blocks))
