"""The post-LN transformer block that the fusion and the sequence encoders share.

Shape letters, used as name suffixes in this file:
    B rows, Q queries, K keys, D width
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with projections without bias, residual sum and LayerNorm."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        """Make a layer; ``num_heads`` must divide ``width``."""
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads: {num_heads} does not divide the width {width}")
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BKD: Tensor, readable_BQK: Tensor) -> Tensor:
        """Let every position read the positions that it may.

        Args:
            x_BKD: inputs, queries and keys alike.
            readable_BQK: bool, broadcastable to ``(B, 1, Q, K)``, True where a query may read a key. A query must be
                able to read at least one key.

        Returns:
            ``(B, K, D)``.
        """
        attended = F.scaled_dot_product_attention(
            self._split(self.query(x_BKD)),
            self._split(self.key(x_BKD)),
            self._split(self.value(x_BKD)),
            attn_mask=readable_BQK,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        merged_BKD = attended.transpose(1, 2).flatten(2)
        normed: Tensor = self.layer_norm(x_BKD + self.dropout(self.output(merged_BKD)))
        return normed

    def _split(self, x_BKD: Tensor) -> Tensor:
        num_rows, length, width = x_BKD.shape
        return x_BKD.view(num_rows, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class FeedForward(nn.Module):
    """``Linear, ReLU, Linear`` of inner width 4D, residual sum and LayerNorm."""

    def __init__(self, width: int, dropout: float) -> None:
        """Make a layer."""
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BKD: Tensor) -> Tensor:
        """Transform every position by itself; same shape."""
        inner = torch.relu(self.expand(x_BKD))
        normed: Tensor = self.layer_norm(x_BKD + self.dropout(self.contract(inner)))
        return normed


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, LayerNorm after each residual sum (post-LN)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        """Make a block."""
        super().__init__()
        self.attention = MultiHeadAttention(width, num_heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x_BKD: Tensor, readable_BQK: Tensor) -> Tensor:
        """Apply the block; see MultiHeadAttention for the mask."""
        transformed: Tensor = self.feed_forward(self.attention(x_BKD, readable_BQK))
        return transformed
