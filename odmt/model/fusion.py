"""Item representation: fuse an item's text, image and ID tokens into one vector a branch.

Shape letters, used as name suffixes in this file:
    M items, T text tokens, V image tokens, L = T + V + 1 (or T + V), D width
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from odmt.model.attention import TransformerBlock, blocks_of
from odmt.model.dropout import Dropout


class FusedViews(NamedTuple):
    """One vector an item and token of interest, each ``(M, D)``."""

    id: Tensor
    text: Tensor
    image: Tensor


class TokenTransformer(nn.Module):
    """Dropout on the tokens, then a stack of blocks, of whose output a few tokens are used."""

    def __init__(self, width: int, num_layers: int, num_heads: int, dropout: float) -> None:
        """Make the stack."""
        super().__init__()
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads, dropout) for _ in range(num_layers))

    def run(self, x_MLD: Tensor, readable: Tensor | None, used: Sequence[int]) -> Tensor:
        """Run all blocks, the last one for the used tokens only.

        Args:
            x_MLD: tokens, after the dropout.
            readable: bool, broadcastable to ``(M, L, L)``; None = everywhere.
            used: the Q tokens whose output is wanted.

        Returns:
            ``(M, Q, D)``.
        """
        by_head = None if readable is None else readable.unsqueeze(1)
        *inner, last = blocks_of(self.blocks)
        for block in inner:
            attention = block.attention
            x_MLD = block.feed_forward(attention.finish(x_MLD, attention.mix(*attention.split(x_MLD), by_head)))
        if readable is not None and readable.shape[1] > 1:
            readable = torch.stack([readable[:, token] for token in used], dim=1)
        return last.read(torch.stack([x_MLD[:, token] for token in used], dim=1), x_MLD, readable)


class IdAwareMultimodalTransformer(TokenTransformer):
    """Read text, image and ID tokens in one attention stack, the ID token hidden from the others.

    The ID token reads every token; with ``id_masking`` no other token reads it, so content vectors do not
    depend on the ID table and stay usable for items never trained on. No position or type embedding and no
    LayerNorm at the input.

    Only three tokens of the last block are used, so only these are computed there; they read all.

    Source: Ji et al., ACM MM 2023, arXiv:2308.04067, section on the ID-aware Multi-modal Transformer. As in the
    released code; its unused LayerNorm and type embedding are left out.
    """

    def __init__(self, width: int, num_layers: int, num_heads: int, dropout: float, id_masking: bool) -> None:
        """Make the stack."""
        super().__init__(width, num_layers, num_heads, dropout)
        self.id_masking = id_masking

    def forward(
        self,
        id_MD: Tensor,
        text_MTD: Tensor,
        image_MVD: Tensor,
        text_mask_MT: Tensor | None = None,
        image_mask_MV: Tensor | None = None,
    ) -> FusedViews:
        """Fuse the tokens of M items.

        Args:
            id_MD: one ID embedding per item.
            text_MTD: text tokens; token 0 is the summary token.
            image_MVD: image tokens; token 0 is the summary token.
            text_mask_MT: bool, True at real text tokens; None = all real.
            image_mask_MV: the same for image tokens. An item needs at least one real text or image token, unless
                ``id_masking`` is off.

        Returns:
            The ID token and the two summary tokens, each ``(M, D)``.
        """
        x_MLD = self.dropout(torch.cat([text_MTD, image_MVD, id_MD.unsqueeze(1)], dim=1))
        real_ML = _joined_masks(text_MTD, image_MVD, text_mask_MT, image_mask_MV, extra=1)
        length = x_MLD.shape[1]
        readable = None if real_ML is None else real_ML.unsqueeze(1)  # (M, 1, L)
        if self.id_masking:
            reads_LL = torch.ones(length, length, dtype=torch.bool, device=x_MLD.device)
            reads_LL[:-1, -1] = False
            readable = reads_LL.unsqueeze(0) if readable is None else readable & reads_LL
        x_M3D = self.run(x_MLD, readable, (length - 1, 0, text_MTD.shape[1]))
        return FusedViews(*x_M3D.unbind(1))


class ContentTransformer(TokenTransformer):
    """A transformer over text and image tokens alone, read at the text summary token.

    The content side of the non-invasive baseline; the same stack as the IMT without its ID token.
    """

    def forward(
        self,
        text_MTD: Tensor,
        image_MVD: Tensor,
        text_mask_MT: Tensor | None = None,
        image_mask_MV: Tensor | None = None,
    ) -> Tensor:
        """Return the text summary token of the last block, ``(M, D)``; arguments as in the IMT."""
        x_MLD = self.dropout(torch.cat([text_MTD, image_MVD], dim=1))
        real_ML = _joined_masks(text_MTD, image_MVD, text_mask_MT, image_mask_MV, extra=0)
        readable = None if real_ML is None else real_ML.unsqueeze(1)
        return self.run(x_MLD, readable, (0,)).squeeze(1)


def _joined_masks(
    text_MTD: Tensor, image_MVD: Tensor, text_mask_MT: Tensor | None, image_mask_MV: Tensor | None, *, extra: int
) -> Tensor | None:
    """Return bool ``(M, T + V + extra)``, True at real tokens; None if all are."""
    if text_mask_MT is None and image_mask_MV is None:
        return None
    ones = torch.ones((), dtype=torch.bool, device=text_MTD.device)
    text = ones.expand(text_MTD.shape[:2]) if text_mask_MT is None else text_mask_MT
    image = ones.expand(image_MVD.shape[:2]) if image_mask_MV is None else image_mask_MV
    return torch.cat([text, image, ones.expand(len(text), extra)], dim=1)
