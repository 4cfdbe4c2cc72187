"""What one training run is made of. Defaults are the authors' settings for Arts (Ji et al., ACM MM 2023).

A value that exists has passed its own checks: ``problems()`` is asked by the loader, which raises once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Section:
    """A group of settings. Subclasses yield their problems as ``key: what is wrong``."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from ()


def _at_least(section: Section, bound: float, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(section, name)
        if not value >= bound:
            yield f"{name}: {value} is below {bound}"


def _not_finite(section: Section) -> Iterator[str]:
    for item in fields(section):
        value = getattr(section, item.name)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{item.name}: {value} is not a finite number"


def _dropout(value: float) -> Iterator[str]:
    if not 0 <= value < 1:
        yield f"dropout: {value} is not in [0, 1)"


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Which data set, and the evaluation protocol's lengths."""

    dataset: str = "demo"
    """Folder name under ``ODMT_HOME/data``."""

    max_seq_len: int = 12
    """Input positions of the sequence encoders. A user keeps the last ``max_seq_len + 3`` items."""

    min_seq_len: int = 5
    """Users with fewer interactions are left out."""

    rank_repeat_targets: bool = False
    """Keep a target rankable that also lies in the user's history. The released code never hits such a target."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _at_least(self, 1, "max_seq_len")
        yield from _at_least(self, 4, "min_seq_len")
        if not self.dataset or "/" in self.dataset or self.dataset.startswith("."):
            yield f"dataset: {self.dataset!r} is not a folder name"


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(Section):
    """The frozen text encoder."""

    model: str = "bert-base-uncased"
    """A hub name, an absolute folder, or ``./name`` for a folder inside the data set's own folder."""

    revision: str | None = None
    """Commit, tag or branch on the hub; None = its default branch."""

    layer: int = 12
    """Which hidden state: 0 = embeddings, n = after block n, -1 = the last one."""

    max_tokens: int = 30
    """Tokens an item, summary token and separator included; longer titles are cut."""

    lower_case: bool = True
    """Lower-case titles before the tokenizer, as the authors do."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _at_least(self, 3, "max_tokens")
        yield from _at_least(self, -1, "layer")
        if not self.model:
            yield "model: is empty"


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig(Section):
    """The frozen image encoder."""

    model: str = "openai/clip-vit-base-patch32"
    """A hub name, an absolute folder, or ``./name`` for a folder inside the data set's own folder."""

    revision: str | None = None
    """Commit, tag or branch on the hub; None = its default branch."""

    layer: int = 12
    """Which hidden state: 0 = embeddings, n = after block n, -1 = the last one (before the final LayerNorm)."""

    image_size: int = 224
    """Pixels a side; images are resized without cropping."""

    normalisation: Literal["half", "processor"] = "half"
    """``half``: mean and deviation 0.5, the authors' choice; ``processor``: the model's own."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _at_least(self, 1, "image_size")
        yield from _at_least(self, -1, "layer")
        if not self.model:
            yield "model: is empty"


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Section):
    """The two frozen encoders."""

    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """Widths, and how the ID table starts."""

    embedding_dim: int = 768
    """Width of the fusion transformer, the branch heads and the sequence encoders."""

    id_dim: int | None = None
    """Width of the ID table. None = the features' width where the table starts from features, else embedding_dim."""

    id_init: Literal["random", "text", "image", "text+image"] = "text+image"
    """Start of the ID table: xavier normal, or a copy of the items' summary features (mean of both)."""

    backbone: Literal["sasrec"] = "sasrec"
    """Sequence encoder of each of the three branches."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _at_least(self, 1, "embedding_dim")
        if self.id_dim is not None:
            yield from _at_least(self, 1, "id_dim")


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
        yield from _at_least(self, 1, "num_layers", "num_heads")
        yield from _dropout(self.dropout)


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(Section):
    """The sequence encoder of each branch."""

    num_layers: int = 2
    """Blocks."""

    num_heads: int = 2
    """Attention heads per block. Must divide ``model.embedding_dim``."""

    dropout: float = 0.1
    """Probability of dropping an activation, in [0, 1)."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _at_least(self, 1, "num_layers", "num_heads")
        yield from _dropout(self.dropout)


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """In-batch sampled softmax with popularity correction."""

    popularity_power: float = 1.0
    """Item probability of the logQ correction: training count to this power, normalised. 0 = no correction."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _not_finite(self)
        yield from _at_least(self, 0, "popularity_power")


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

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _not_finite(self)
        if not self.temperature > 0:
            yield f"temperature: {self.temperature} is not above 0"
        yield from _at_least(self, 0, "weight", "rampup_epochs")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """The optimiser and the loop."""

    max_epochs: int = 31
    """Passes over the users."""

    learning_rate: float = 1e-4
    """AdamW's step size, constant."""

    weight_decay: float = 0.1
    """AdamW's decoupled decay, on every parameter."""

    batch_size: int = 128
    """Users a batch; the in-batch negatives are local to it."""

    accumulate_batches: int = 1
    """Batches whose gradients are averaged into one step. The authors' two GPUs are 2 here."""

    eval_batch_size: int = 512
    """Users, and items, at once during evaluation."""

    grad_clip: float = 5.0
    """Largest L2 norm of the whole gradient."""

    seed: int = 1
    """Seed of the start values, the order of users and the dropout masks."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto``: fp32 on a CPU; on a GPU bf16 where it has it, else fp16 with a loss scaler."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _not_finite(self)
        yield from _at_least(self, 1, "max_epochs", "accumulate_batches", "eval_batch_size")
        yield from _at_least(self, 1, "batch_size")
        yield from _at_least(self, 0, "weight_decay", "seed")
        for name in ("learning_rate", "grad_clip"):
            if not getattr(self, name) > 0:
                yield f"{name}: {getattr(self, name)} is not above 0"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Section):
    """When a run saves its state."""

    every_epochs: int = 1
    """Epochs between checkpoints; the last epoch and every rung are saved in any case."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _at_least(self, 1, "every_epochs")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """Everything one training run needs to know."""

    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def problems(self) -> Iterator[str]:
        """Yield what does not fit between sections."""
        width = self.model.embedding_dim
        for name, heads in (("fusion", self.fusion.num_heads), ("sequence", self.sequence.num_heads)):
            if heads >= 1 and width % heads:
                yield f"{name}.num_heads: {heads} does not divide model.embedding_dim {width}"
