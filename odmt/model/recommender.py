"""The sequential recommender: items to vectors, sequences of them to user states, both to a loss.

Shape letters, used as name suffixes in this file:
    M distinct items, B users, R rows (real positions of all users), D width
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from odmt.model.gathering import gather_rows
from odmt.model.items import ItemEncoder, ItemTokens
from odmt.model.layout import SequenceLayout
from odmt.model.losses import Candidates, LossTerms, Objective, candidate_loss
from odmt.model.sequence import SequenceEncoder


class Batch(NamedTuple):
    """One training batch; every item stands in it once, and no padding at all.

    Attributes:
        item_ids: int64 ``(M,)``, the distinct items that are encoded.
        groups: features of ``item_ids``, consecutive runs of it.
        inputs: int64 ``(R,)``, place of each row's item in ``item_ids``.
        layout: where the rows stand.
        candidates: what each row is scored against; its columns are ``item_ids``, or those of all processes.
        gathered: numbers of items of all processes, where the candidates are those of all; else None.
        num_rows: rows that the loss is a mean over.
    """

    item_ids: Tensor
    groups: tuple[ItemTokens, ...]
    inputs: Tensor
    layout: SequenceLayout
    candidates: Candidates
    gathered: tuple[int, ...] | None
    num_rows: float


class SequentialRecommender(nn.Module):
    """An item encoder, and a sequence encoder of its own for each of the item encoder's branches.

    With the IMT item encoder and SASRec this is ODMT (Ji et al., ACM MM 2023, arXiv:2308.04067) as released; other
    item encoders are its baselines. Items are encoded once a batch however often they occur.
    """

    def __init__(
        self, item_encoder: ItemEncoder, backbones: Mapping[str, nn.Module], *, recompute_items: bool = False
    ) -> None:
        """Put the parts together.

        Args:
            item_encoder: gives the branches.
            backbones: one sequence encoder a branch.
            recompute_items: of a forward pass keep only the item vectors (and the features that were gathered) and
                compute each group of items again in the backward pass, with the same dropout masks: less memory, the
                same loss and gradients.
        """
        super().__init__()
        self.item_encoder = item_encoder
        self.branches = item_encoder.branches
        self.sequence_encoders = nn.ModuleDict({name: backbones[name] for name in self.branches})
        self.recompute_items = recompute_items

    def encode_items(self, item_ids: Tensor, groups: Sequence[ItemTokens]) -> tuple[Tensor, ...]:
        """Encode items; the result serves as sequence input and as scoring vector.

        Args:
            item_ids: int64 ``(M,)``.
            groups: their features, consecutive runs of ``item_ids``.

        Returns:
            ``(M, D)`` a branch.
        """
        parts = []
        rows = torch.split(self.item_encoder.embed(item_ids), [len(group.text) for group in groups])
        for ids, tokens in zip(rows, groups, strict=True):
            if self.recompute_items and torch.is_grad_enabled():
                parts.append(checkpoint(self._encode_group, ids, tokens, use_reentrant=False))
            else:
                parts.append(self._encode_group(ids, tokens))
        return tuple(torch.cat(branch) if len(branch) > 1 else branch[0] for branch in zip(*parts, strict=True))

    def _encode_group(self, id_ME: Tensor, tokens: ItemTokens) -> tuple[Tensor, ...]:
        dtype = next(self.item_encoder.parameters()).dtype  # features come as they are kept, in float16
        wide = tokens._replace(text=tokens.text.to(dtype), image=tokens.image.to(dtype))
        views: tuple[Tensor, ...] = self.item_encoder(id_ME, wide)
        return views

    def encode_sequences(self, items: Sequence[Tensor], layout: SequenceLayout) -> tuple[Tensor, ...]:
        """Encode packed sequences, each branch by itself: ``(R, D)`` item vectors to ``(R, D)`` states a branch."""
        encoders = self._sequence_encoders()
        return tuple(encoder(rows, layout) for encoder, rows in zip(encoders, items, strict=True))

    def last_states(self, items: Sequence[Tensor], layout: SequenceLayout) -> tuple[Tensor, ...]:
        """Return the state after each user's last item, ``(B, D)`` a branch, from ``(R, D)`` item vectors.

        Raises:
            ValueError: a user has no items.
        """
        encoders = self._sequence_encoders()
        return tuple(encoder.last_states(rows, layout) for encoder, rows in zip(encoders, items, strict=True))

    def _sequence_encoders(self) -> list[SequenceEncoder]:
        return cast(list[SequenceEncoder], list(self.sequence_encoders.values()))

    def forward(self, batch: Batch, objective: Objective) -> LossTerms:
        """Return the training loss of a batch; see ``candidate_loss``."""
        items = self.encode_items(batch.item_ids, batch.groups)
        states = self.encode_sequences([view.index_select(0, batch.inputs) for view in items], batch.layout)
        columns = (
            items if batch.gathered is None else tuple(gather_rows(view.float(), batch.gathered) for view in items)
        )
        return candidate_loss(states, columns, batch.candidates, objective, num_rows=batch.num_rows)
