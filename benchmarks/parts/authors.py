"""The authors' algorithm, with their batched operations: the side that benchmarks compare with.

Every one of the B x S slots of a batch goes through the whole fusion, padding and repeats included, all tokens through
every block; queries, keys and values are three products; attention is an explicit softmax over scores plus an added
mask; sequences stay padded; false negatives are found by comparing (B, S, B x S) ids. The logits are computed for valid
rows only. Parameter names are ours, except that ``qkv`` is three matrices. Needs torch alone; holds the golden files
(``tests/model/test_authors.py``).

Source: Ji et al., ACM MM 2023, arXiv:2308.04067, in the form of its released code.

Shape letters, used as name suffixes in this file:
    B users, L input positions, S = L + 1 slots, C = B x S slots of the batch and candidate columns, R valid rows,
    T text tokens, V image tokens, K tokens (of an item or a sequence), H heads, D width
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parts.authors_layers import BRANCHES, Block, SequenceEncoder, Sizes, split_projections

MASKED_TOKEN = -1e4
MASKED_LOGIT = -1e4


class SlotTokens(NamedTuple):
    """Features of every slot, repeats and padding included.

    Attributes:
        text: ``(C, T, text width)``.
        text_mask: bool ``(C, T)``, True at real tokens.
        image: ``(C, V, image width)``; all tokens are real.
    """

    text: Tensor
    text_mask: Tensor
    image: Tensor


class Losses(NamedTuple):
    """The loss and its two parts, scalars."""

    loss: Tensor
    ce: Tensor
    kd: Tensor


class Fusion(nn.Module):
    """The ID-aware multi-modal transformer; token order text, image, ID."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.id_masking = sizes.id_masking
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(
            Block(sizes.width, sizes.fusion_heads, sizes.dropout) for _ in range(sizes.fusion_layers)
        )

    def forward(self, id_CD: Tensor, text_CTD: Tensor, image_CVD: Tensor, text_mask_CT: Tensor) -> tuple[Tensor, ...]:
        """Return the ID token and the first text and image token, each ``(C, D)``."""
        num_slots, num_text, _ = text_CTD.shape
        x_CKD = self.dropout(torch.cat([text_CTD, image_CVD, id_CD.unsqueeze(1)], dim=1))
        num_tokens = x_CKD.shape[1]
        always_real = text_mask_CT.new_ones(num_slots, num_tokens - num_text)
        real_CK = torch.cat([text_mask_CT, always_real], dim=1)
        added = torch.where(real_CK, 0.0, MASKED_TOKEN)[:, None, None, :]
        if self.id_masking:
            bar_KK = torch.zeros(num_tokens, num_tokens, device=x_CKD.device)
            bar_KK[:-1, -1] = MASKED_TOKEN
            added = added + bar_KK
        for block in self.blocks:
            x_CKD = block(x_CKD, added)
        return x_CKD[:, -1], x_CKD[:, 0], x_CKD[:, num_text]


class ItemEncoder(nn.Module):
    """Projections, fusion, and a two-layer head a branch."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.id_table = nn.Embedding(sizes.num_items + 1, sizes.id_dim)
        self.id_projection = nn.Linear(sizes.id_dim, width)
        self.text_projection = nn.Linear(sizes.text_dim, width)
        self.image_projection = nn.Linear(sizes.image_dim, width)
        self.fusion = Fusion(sizes)
        self.heads = nn.ModuleDict(
            {
                branch: nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width))
                for branch in BRANCHES
            }
        )

    def forward(self, item_ids_C: Tensor, tokens: SlotTokens) -> dict[str, Tensor]:
        """Encode every slot: ``(C, D)`` a branch."""
        views = self.fusion(
            self.id_projection(self.id_table(item_ids_C)),
            self.text_projection(tokens.text),
            self.image_projection(tokens.image),
            tokens.text_mask,
        )
        return {branch: self.heads[branch](view) for branch, view in zip(BRANCHES, views, strict=True)}


class Authors(nn.Module):
    """The whole model and its loss."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.item_encoder = ItemEncoder(sizes)
        self.sequence_encoders = nn.ModuleDict({branch: SequenceEncoder(sizes) for branch in BRANCHES})

    def logits(
        self, slots_BS: Tensor, tokens: SlotTokens, log_popularity_BS: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Corrected and masked logits ``(R, C)`` a branch, and the labels ``(R,)``."""
        num_users, num_slots = slots_BS.shape
        items = self.item_encoder(slots_BS.flatten(), tokens)
        real_BL = slots_BS[:, :-1] != 0
        user_R, position_R = real_BL.nonzero(as_tuple=True)
        label_R = user_R * num_slots + position_R + 1
        masked_RC = _masked_columns(slots_BS)[user_R]
        masked_RC[torch.arange(len(label_R), device=label_R.device), label_R] = False
        logits = {}
        for branch, items_CD in items.items():
            inputs_BLD = items_CD.unflatten(0, (num_users, num_slots))[:, :-1]
            states_RD = self.sequence_encoders[branch](inputs_BLD, real_BL)[real_BL]
            scores_RC = states_RD @ items_CD.T - log_popularity_BS.flatten()
            logits[branch] = scores_RC.masked_fill(masked_RC, MASKED_LOGIT)
        return logits, label_R

    def forward(
        self,
        slots_BS: Tensor,
        tokens: SlotTokens,
        log_popularity_BS: Tensor,
        *,
        kd_weight: float,
        temperature: float,
    ) -> Losses:
        """Return the training loss of a batch.

        Args:
            slots_BS: int64 item ids, left padded with 0.
            tokens: features of the flattened slots.
            log_popularity_BS: float32, log of each slot's item probability; 0 at padding.
            kd_weight: weight of the distillation in this epoch.
            temperature: softmax temperature tau.
        """
        logits, label_R = self.logits(slots_BS, tokens, log_popularity_BS)
        return losses(logits, label_R, kd_weight=kd_weight, temperature=temperature)

    def load_ours(self, state: dict[str, Tensor]) -> None:
        """Take over parameters under our names."""
        self.load_state_dict(split_projections(state))

    def state_as_ours(self) -> dict[str, Tensor]:
        """Return the parameters under our names."""
        return _join_projections({name: parameter.detach() for name, parameter in self.named_parameters()})

    def gradients_as_ours(self) -> dict[str, Tensor]:
        """Return the gradients under our names, of the parameters that have one."""
        found = {name: parameter.grad for name, parameter in self.named_parameters()}
        return _join_projections({name: gradient for name, gradient in found.items() if gradient is not None})


def losses(logits: dict[str, Tensor], label_R: Tensor, *, kd_weight: float, temperature: float) -> Losses:
    """Cross-entropies and distillation from ``(R, C)`` logits a branch; teachers are not detached."""
    ce = F.cross_entropy(logits["id"], label_R)
    ce = ce + F.cross_entropy(logits["text"], label_R) + F.cross_entropy(logits["image"], label_R)
    ensemble_RC = (logits["text"] + logits["image"] + logits["id"]) / 3
    kd = kd_weight * (
        _distillation(logits["text"], logits["id"], temperature)
        + _distillation(logits["image"], logits["id"], temperature)
        + _distillation(logits["id"], ensemble_RC, temperature)
    )
    return Losses(ce + kd, ce, kd)


def _distillation(student_RC: Tensor, teacher_RC: Tensor, temperature: float) -> Tensor:
    target_RC = F.softmax(teacher_RC / temperature, dim=1)
    log_student_RC = F.log_softmax(student_RC / temperature, dim=1)
    return -(temperature**2) * (target_RC * log_student_RC).sum(dim=1).mean()


def _masked_columns(slots_BS: Tensor) -> Tensor:
    """Bool ``(B, C)``: padding, and columns whose item occurs in the user's own row."""
    columns_C = slots_BS.flatten()
    same_BSC = slots_BS.unsqueeze(2) == columns_C
    return same_BSC.any(dim=1) | (columns_C == 0)


def _join_projections(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {}
    for name, value in theirs.items():
        stem, _, last = name.removesuffix(".weight").rpartition(".")
        if last in ("key", "value"):
            continue
        if last == "query":
            parts = [value, theirs[f"{stem}.key.weight"], theirs[f"{stem}.value.weight"]]
            ours[f"{stem}.qkv.weight"] = torch.cat(parts)
        else:
            ours[name] = value
    return ours
