"""The Online Distillation-enhanced Multi-modal Transformer: items to three views, sequences to three states.

Shape letters, used as name suffixes in this file:
    M items, T text tokens, V image tokens, B users, L positions, S = L + 1 slots, D width
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from odmt.model.fusion import IdAwareMultimodalTransformer, ItemViews
from odmt.model.losses import LossTerms, branch_losses, corrected_logits, in_batch_candidates
from odmt.model.sequence import SasRec

IdInit = Literal["random", "text", "image", "text+image"]


class ItemTokens(NamedTuple):
    """Frozen features of M items.

    Attributes:
        text: float ``(M, T, text width)``; token 0 is the summary token.
        text_mask: bool ``(M, T)``, True at real tokens.
        image: float ``(M, V, image width)``; token 0 is the summary token.
        image_mask: bool ``(M, V)``.
    """

    text: Tensor
    text_mask: Tensor
    image: Tensor
    image_mask: Tensor


class Batch(NamedTuple):
    """One training batch; every item's features stand in it once.

    Attributes:
        slots: int64 ``(B, S)``, item ids, left padded with 0.
        item_ids: int64 ``(M,)``, the distinct real items of the batch.
        slot_item: int64 ``(B, S)``, 1 + place of each slot's item in ``item_ids``; 0 at padding.
        tokens: features of ``item_ids``.
        log_popularity: float32 ``(B, S)``, log of each slot's item probability; 0 at padding.
    """

    slots: Tensor
    item_ids: Tensor
    slot_item: Tensor
    tokens: ItemTokens
    log_popularity: Tensor


class Odmt(nn.Module):
    """Three branches (ID, text, image) over items fused by the IMT.

    Source: Ji et al., ACM MM 2023, arXiv:2308.04067, as released: a projection a modality, the IMT, a two-layer head
    and a SASRec encoder of its own for each branch. Items are encoded once a batch however often they occur.
    """

    def __init__(
        self,
        *,
        num_items: int,
        text_dim: int,
        image_dim: int,
        id_dim: int,
        width: int,
        max_seq_len: int,
        fusion_layers: int,
        fusion_heads: int,
        fusion_dropout: float,
        id_masking: bool,
        sequence_layers: int,
        sequence_heads: int,
        sequence_dropout: float,
    ) -> None:
        """Make the model; the ID table starts xavier normal until ``start_id_table`` says otherwise."""
        super().__init__()
        self.id_table = nn.Embedding(num_items + 1, id_dim)
        nn.init.xavier_normal_(self.id_table.weight)
        self.id_projection = nn.Linear(id_dim, width)
        self.text_projection = nn.Linear(text_dim, width)
        self.image_projection = nn.Linear(image_dim, width)
        self.fusion = IdAwareMultimodalTransformer(width, fusion_layers, fusion_heads, fusion_dropout, id_masking)
        self.id_head, self.text_head, self.image_head = (_head(width) for _ in range(3))
        self.id_encoder, self.text_encoder, self.image_encoder = (
            SasRec(width, max_seq_len, sequence_layers, sequence_heads, sequence_dropout) for _ in range(3)
        )

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
        if start == "random":
            return
        for name, summary in (("text", text_summary), ("image", image_summary)):
            if name in start and summary.shape[1] != self.id_table.embedding_dim:
                raise ValueError(
                    f"model.id_init: {start!r} needs an ID table as wide as the {name} features, "
                    f"got {self.id_table.embedding_dim} and {summary.shape[1]}"
                )
        parts = {"text": [text_summary], "image": [image_summary], "text+image": [image_summary, text_summary]}[start]
        self.id_table.weight[1:] = torch.stack(parts).mean(dim=0)

    def encode_items(self, item_ids: Tensor, tokens: ItemTokens) -> ItemViews:
        """Fuse items; the result serves as sequence input and as scoring vector.

        Args:
            item_ids: int64 ``(M,)``.
            tokens: their features.

        Returns:
            Three ``(M, D)``.
        """
        fused = self.fusion(
            self.id_projection(self.id_table(item_ids)),
            self.text_projection(tokens.text),
            self.image_projection(tokens.image),
            tokens.text_mask,
            tokens.image_mask,
        )
        return ItemViews(self.id_head(fused.id), self.text_head(fused.text), self.image_head(fused.image))

    def encode_sequences(self, items: ItemViews, sequence_mask_BL: Tensor) -> ItemViews:
        """Encode left-padded sequences of item vectors, each branch by itself.

        Args:
            items: three ``(B, L, D)``.
            sequence_mask_BL: bool, True at real positions.

        Returns:
            Three ``(B, L, D)``: user states.
        """
        return ItemViews(
            self.id_encoder(items.id, sequence_mask_BL),
            self.text_encoder(items.text, sequence_mask_BL),
            self.image_encoder(items.image, sequence_mask_BL),
        )

    def logits(self, batch: Batch) -> tuple[ItemViews, Tensor]:
        """Score the batch's slots for every valid row.

        Returns:
            Three corrected and masked ``(R, B x S)``, and the label columns ``(R,)``.
        """
        views = self.encode_items(batch.item_ids, batch.tokens)
        slots = ItemViews(*(_at_slots(view, batch.slot_item) for view in views))
        inputs = ItemViews(*(view[:, :-1] for view in slots))
        states = self.encode_sequences(inputs, batch.slots[:, :-1] != 0)
        candidates = in_batch_candidates(batch.slots)
        logits = ItemViews(
            *(
                corrected_logits(
                    state.flatten(0, 1)[candidates.rows],
                    slot.flatten(0, 1),
                    batch.log_popularity.flatten(),
                    candidates.masked,
                )
                for state, slot in zip(states, slots, strict=True)
            )
        )
        return logits, candidates.label

    def forward(self, batch: Batch, *, kd_weight: float, temperature: float, detach_teacher: bool = False) -> LossTerms:
        """Return the training loss of a batch; see ``branch_losses``."""
        logits, label = self.logits(batch)
        return branch_losses(
            (logits.id, logits.text, logits.image),
            label,
            kd_weight=kd_weight,
            temperature=temperature,
            detach_teacher=detach_teacher,
        )


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width))


def _at_slots(view_MD: Tensor, slot_item_BS: Tensor) -> Tensor:
    padded = torch.cat([view_MD.new_zeros(1, view_MD.shape[1]), view_MD])
    return padded[slot_item_BS]
