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

    short_history_len: int = 5
    """Users with at most so many items before the target are also measured apart, as ``short_history``."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _at_least(self, 1, "max_seq_len", "short_history_len")
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

    item_encoder: Literal["imt", "late", "early-sum", "early-concat", "non-invasive", "id", "text", "image"] = "imt"
    """From an item's ID, text and image to its vectors: ``imt`` (the full method) or a baseline. ``imt`` and ``late``
    have three branches, each with a sequence encoder of its own, and only these distil."""

    backbone: Literal["sasrec", "gru4rec", "nextitnet"] = "sasrec"
    """Sequence encoder of each branch."""

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
    """Blocks (sasrec), recurrent layers (gru4rec), or residual blocks of two convolutions (nextitnet)."""

    num_heads: int = 2
    """Attention heads per block, of sasrec. Must divide ``model.embedding_dim``."""

    kernel_size: int = 3
    """Taps of a convolution, of nextitnet."""

    dropout: float = 0.1
    """Probability of dropping an activation, in [0, 1)."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _at_least(self, 1, "num_layers", "num_heads", "kernel_size")
        yield from _dropout(self.dropout)


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
        yield from _not_finite(self)
        yield from _at_least(self, 0, "popularity_power")
        yield from _at_least(self, 1, "num_negatives")
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
    """AdamW's step size, the highest of the schedule."""

    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate after its warm-up: ``cosine`` falls to 0 at the end of ``max_epochs``."""

    warmup_epochs: float = 0.0
    """Epochs, fractions allowed, over which the learning rate rises linearly from near 0."""

    early_stopping_patience: int | None = None
    """End after so many epochs without a better validation NDCG@10; None = never."""

    weight_decay: float = 0.1
    """AdamW's decoupled decay, on every parameter."""

    batch_size: int = 128
    """Users a batch; the in-batch negatives are local to it."""

    accumulate_batches: int = 1
    """Batches of one process whose gradients are averaged into one step. The authors' two GPUs are 2 here."""

    data_parallel: int = 1
    """Processes, one a GPU, each with batches of its own, whose gradients are averaged into one step."""

    eval_batch_size: int = 512
    """Users, and items, at once during evaluation."""

    grad_clip: float = 5.0
    """Largest L2 norm of the whole gradient."""

    seed: int = 1
    """Seed of the start values, the order of users and the dropout masks."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto``: fp32 on a CPU; on a GPU bf16 where it has it, else fp16 with a loss scaler."""

    features: Literal["auto", "device", "host"] = "auto"
    """Where a GPU's run keeps the frozen features: in its memory if they fit in half of what is free, else pinned."""

    items_per_group: int | None = None
    """Items encoded at once; None = what a CPU's cache holds, or a quarter of a batch on a GPU."""

    recompute_items: bool = False
    """Compute each group of items again in the backward pass instead of keeping it: less memory, the same numbers."""

    compile: bool = False
    """Let torch.compile fuse the item encoder's kernels. Costs about a minute at the start."""

    deterministic: bool = False
    """Use deterministic kernels only: the same numbers again on the same GPU. A CPU's are so in any case."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from _not_finite(self)
        yield from _at_least(self, 1, "max_epochs", "accumulate_batches", "data_parallel", "eval_batch_size")
        yield from _at_least(self, 1, "batch_size")
        yield from _at_least(self, 0, "weight_decay", "warmup_epochs", "seed")
        for name in ("early_stopping_patience", "items_per_group"):
            if getattr(self, name) is not None:
                yield from _at_least(self, 1, name)
        if self.warmup_epochs > self.max_epochs:
            yield f"warmup_epochs: {self.warmup_epochs} is more than max_epochs {self.max_epochs}"
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
        if self.loss.gathered_negatives and self.train.data_parallel == 1:
            yield "loss.gathered_negatives: there is one process; set train.data_parallel above 1"
