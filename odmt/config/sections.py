"""What one training run is made of. Defaults are the authors' settings for Arts (Ji et al., ACM MM 2023).

A value that exists has passed its own checks: ``problems()`` is asked by the loader, which raises once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from odmt.config.base import Section, at_least, not_finite
from odmt.config.data_sections import DataConfig, FeaturesConfig
from odmt.config.model_sections import DistillConfig, FusionConfig, LossConfig, ModelConfig, SequenceConfig


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
        yield from not_finite(self)
        yield from at_least(self, 1, "max_epochs", "accumulate_batches", "data_parallel", "eval_batch_size")
        yield from at_least(self, 1, "batch_size")
        yield from at_least(self, 0, "weight_decay", "warmup_epochs", "seed")
        for name in ("early_stopping_patience", "items_per_group"):
            if getattr(self, name) is not None:
                yield from at_least(self, 1, name)
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
        yield from at_least(self, 1, "every_epochs")


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
        attends = {
            "fusion": (self.fusion.num_heads, self.model.item_encoder in ("imt", "non-invasive")),
            "sequence": (self.sequence.num_heads, self.model.backbone == "sasrec"),
        }
        for name, (heads, used) in attends.items():
            if used and heads >= 1 and width % heads:
                yield f"{name}.num_heads: {heads} does not divide model.embedding_dim {width}"
        if self.train.batch_size == 1 and self.loss.kind == "in-batch" and not self.loss.gathered_negatives:
            yield "train.batch_size: 1 leaves a user without negatives; loss.kind in-batch needs 2 or more"
        if self.model.item_encoder == "id" and self.model.id_dim not in (None, width):
            yield f"model.id_dim: {self.model.id_dim} is not model.embedding_dim {width}, as item_encoder id needs"
        if self.loss.gathered_negatives and self.train.data_parallel == 1:
            yield "loss.gathered_negatives: there is one process; set train.data_parallel above 1"
