"""Which data, and which frozen encoders. Defaults are the authors' settings for Arts (Ji et al., ACM MM 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from odmt.config.base import Section, at_least


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
        yield from at_least(self, 1, "max_seq_len", "short_history_len")
        yield from at_least(self, 4, "min_seq_len")
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
        yield from at_least(self, 3, "max_tokens")
        yield from at_least(self, -1, "layer")
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
        yield from at_least(self, 1, "image_size")
        yield from at_least(self, -1, "layer")
        if not self.model:
            yield "model: is empty"


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Section):
    """The two frozen encoders."""

    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
