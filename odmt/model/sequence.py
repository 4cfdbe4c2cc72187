"""Sequence encoders (backbones): from item vectors in order to a user state at every position.

Shape letters, used as name suffixes in this file:
    B users, L positions, D width
"""

import torch
from torch import Tensor, nn

from odmt.model.attention import LAYER_NORM_EPS, TransformerBlock


class SasRec(nn.Module):
    """Causal post-LN transformer over left-padded sequences.

    Source: Kang and McAuley, ICDM 2018, in the form of the released ODMT code: position embedding added to the item
    vector, LayerNorm, dropout, blocks. Linear and Embedding weights start xavier normal, biases 0.
    """

    def __init__(self, width: int, max_seq_len: int, num_layers: int, num_heads: int, dropout: float) -> None:
        """Make an encoder for at most ``max_seq_len`` positions."""
        super().__init__()
        self.position_embedding = nn.Embedding(max_seq_len, width)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads, dropout) for _ in range(num_layers))
        self.apply(_start_xavier_normal)

    def forward(self, items_BLD: Tensor, sequence_mask_BL: Tensor) -> Tensor:
        """Encode left-padded sequences.

        Args:
            items_BLD: item vectors; whatever stands at padded positions has no effect on real ones.
            sequence_mask_BL: bool, True at real positions.

        Returns:
            ``(B, L, D)``: the state after each position; meaningless at padded positions.
        """
        length = items_BLD.shape[1]
        x_BLD = self.dropout(self.layer_norm(items_BLD + self.position_embedding.weight[:length]))
        ones_LL = torch.ones(length, length, dtype=torch.bool, device=items_BLD.device)
        # A padded query reads itself: an empty softmax would be NaN, and NaN x 0 gradients would spread.
        readable_BLL = (sequence_mask_BL.unsqueeze(1) & ones_LL.tril()) | torch.eye(
            length, device=ones_LL.device
        ).bool()
        for block in self.blocks:
            x_BLD = block(x_BLD, readable_BLL.unsqueeze(1))
        encoded: Tensor = x_BLD
        return encoded


def _start_xavier_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
