"""The model and what it minimises. Defaults are the authors' settings for Arts (Ji et al., ACM MM 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from odmt.config.base import Section, at_least, dropout_range, not_finite


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """Widths, and how the ID table starts."""

    embedding_dim: int = 768
    """Width of the fusion transformer, the branch heads and the sequence encoders."""

    id_dim: int | None = None
    """Width of the ID table. None = the features' width where the table starts from features, else embedding_dim."""

    id_init: Literal["random", "text", "image", "text+image"] = "text+image"
    """Start of the ID table: xavier normal, or a copy of the items' summary features (mean of both)."""

    item_encoder: Literal["imt", "late", "early-sum", "early-concat", "non-invasive", "id", "text", "image"] = "imt"
    """From an item's ID, text and image to its vectors: ``imt`` (the full method) or a baseline. ``imt`` and ``late``
    have three branches, each with a sequence encoder of its own, and only these distil."""

    backbone: Literal["sasrec", "gru4rec", "nextitnet"] = "sasrec"
    """Sequence encoder of each branch."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from at_least(self, 1, "embedding_dim")
        if self.id_dim is not None:
            yield from at_least(self, 1, "id_dim")


@dataclass(frozen=True, kw_only=True)
class FusionConfig(Section):
    """The ID-aware multi-modal transformer (IMT)."""

    num_layers: int = 2
    """Blocks."""

    num_heads: int = 2
    """Attention heads per block. Must divide ``model.embedding_dim``."""

    dropout: float = 0.1
    """Probability of dropping an activation, in [0, 1)."""

    id_masking: bool = True
    """No text or image token reads the ID token (v1, the full method). False: all tokens read all (v2, v3)."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from at_least(self, 1, "num_layers", "num_heads")
        yield from dropout_range(self.dropout)


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(Section):
    """The sequence encoder of each branch."""

    num_layers: int = 2
    """Blocks (sasrec), recurrent layers (gru4rec), or residual blocks of two convolutions (nextitnet)."""

    num_heads: int = 2
    """Attention heads per block, of sasrec. Must divide ``model.embedding_dim``."""

    kernel_size: int = 3
    """Taps of a convolution, of nextitnet."""

    dropout: float = 0.1
    """Probability of dropping an activation, in [0, 1)."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from at_least(self, 1, "num_layers", "num_heads", "kernel_size")
        yield from dropout_range(self.dropout)


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The softmax loss: which items each position's next item is compared with."""

    kind: Literal["in-batch", "full", "sampled"] = "in-batch"
    """``in-batch``: all slots of the batch but the user's own items, with popularity correction (the authors' loss);
    ``full``: the whole catalogue; ``sampled``: uniform draws from the catalogue, shared by a batch."""

    popularity_power: float = 1.0
    """Item probability of the logQ correction of ``in-batch``: training count to this power, normalised. 0 = none."""

    num_negatives: int = 100
    """Draws a batch of ``sampled``, with replacement."""

    gathered_negatives: bool = False
    """``in-batch`` over the batches of all processes of ``train.data_parallel``; else each process has its own."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from not_finite(self)
        yield from at_least(self, 0, "popularity_power")
        yield from at_least(self, 1, "num_negatives")
        if self.gathered_negatives and self.kind != "in-batch":
            yield f"gathered_negatives: only kind in-batch has negatives to gather, got kind {self.kind}"


@dataclass(frozen=True, kw_only=True)
class DistillConfig(Section):
    """Online distillation between the branches. The authors' ``alpha`` is two settings here."""

    temperature: float = 0.3
    """Softmax temperature tau."""

    weight: float = 1.0
    """Weight of the distillation loss; 0 switches it off. The authors' alpha below 1."""

    rampup_epochs: float = 20.0
    """Epochs over which the weight rises as exp(-5 (1 - t)^2); 0 = full from the start. The authors' alpha from 1."""

    detach_teacher: bool = False
    """Stop gradients into the teacher. The released code lets them flow."""

    objective: Literal["soft-cross-entropy", "kl"] = "soft-cross-entropy"
    """What the student minimises: cross-entropy with the teacher's soft targets (released code), or KL divergence."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from not_finite(self)
        if not self.temperature > 0:
            yield f"temperature: {self.temperature} is not above 0"
        yield from at_least(self, 0, "weight", "rampup_epochs")
