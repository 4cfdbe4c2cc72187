"""Item representation: fuse an item's text, image and ID tokens into one vector a branch.

Shape letters, used as name suffixes in this file:
    M items, T text tokens, V image tokens, L = T + V + 1, D width
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from odmt.model.attention import TransformerBlock


class ItemViews(NamedTuple):
    """One vector an item and branch, each ``(..., D)``."""

    id: Tensor
    text: Tensor
    image: Tensor


class IdAwareMultimodalTransformer(nn.Module):
    """Read text, image and ID tokens in one attention stack, the ID token hidden from the others.

    The ID token reads every token; with ``id_masking`` no other token reads it, so content vectors do not
    depend on the ID table and stay usable for items never trained on. No position or type embedding and no
    LayerNorm at the input.

    Source: Ji et al., ACM MM 2023, arXiv:2308.04067, section on the ID-aware Multi-modal Transformer. As in the
    released code; its unused LayerNorm and type embedding are left out.
    """

    def __init__(self, width: int, num_layers: int, num_heads: int, dropout: float, id_masking: bool) -> None:
        """Make the stack."""
        super().__init__()
        self.id_masking = id_masking
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads, dropout) for _ in range(num_layers))

    def forward(
        self,
        id_MD: Tensor,
        text_MTD: Tensor,
        image_MVD: Tensor,
        text_mask_MT: Tensor,
        image_mask_MV: Tensor,
    ) -> ItemViews:
        """Fuse the tokens of M items.

        Args:
            id_MD: one ID embedding per item.
            text_MTD: text tokens; token 0 is the summary token.
            image_MVD: image tokens; token 0 is the summary token.
            text_mask_MT: bool, True at real text tokens.
            image_mask_MV: the same for image tokens. An item needs at least one real text or image token, unless
                ``id_masking`` is off.

        Returns:
            The ID token and the two summary tokens, each ``(M, D)``.
        """
        num_items, num_text, _ = text_MTD.shape
        x_MLD = self.dropout(torch.cat([text_MTD, image_MVD, id_MD.unsqueeze(1)], dim=1))
        length = x_MLD.shape[1]
        real_id = text_mask_MT.new_ones(num_items, 1)
        readable_MLL = torch.cat([text_mask_MT, image_mask_MV, real_id], dim=1).unsqueeze(1).expand(-1, length, -1)
        if self.id_masking:
            reads_id = torch.zeros(length, length, dtype=torch.bool, device=x_MLD.device)
            reads_id[:-1, -1] = True
            readable_MLL = readable_MLL & ~reads_id
        for block in self.blocks:
            x_MLD = block(x_MLD, readable_MLL.unsqueeze(1))
        return ItemViews(id=x_MLD[:, -1], text=x_MLD[:, 0], image=x_MLD[:, num_text])
