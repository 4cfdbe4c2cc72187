"""Which data, and which frozen encoders. Defaults are the authors' settings for Arts (Ji et al., ACM MM 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from odmt.config.base import Section, at_least, not_finite


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


def names_folder(model: str) -> bool:
    """Say whether an encoder's model is a folder; else it is a hub name."""
    return model.startswith(("./", "/", "~"))


def _model_problems(model: str, revision: str | None) -> Iterator[str]:
    if not model:
        yield "model: is empty"
    if revision is not None and names_folder(model):
        yield f"revision: {revision!r} belongs to a model of the hub, and {model!r} is a folder; leave it out"


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
        yield from _model_problems(self.model, self.revision)


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig(Section):
    """The frozen image encoder."""

    model: str = "openai/clip-vit-base-patch32"
    """A hub name, an absolute folder, or ``./name`` for a folder inside the data set's own folder. Where a family has
    no summary token (Swin), the mean of the tokens is put first; of a CLIP the vision tower is taken."""

    revision: str | None = None
    """Commit, tag or branch on the hub; None = its default branch."""

    layer: int = 12
    """Which hidden state: 0 = embeddings, n = after block n (of a Swin: stage n), -1 = the last one (before the final
    LayerNorm)."""

    image_size: int = 224
    """Pixels a side; images are resized without cropping."""

    normalisation: Literal["half", "processor"] = "half"
    """``half``: mean and deviation 0.5, the authors' choice; ``processor``: the model's own."""

    mask_ratio: float = 0.0
    """Of a ViT-MAE only: share of the patches left out at random, the same ones for the same picture (the authors'
    0.75); 0 = every patch, in order."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from at_least(self, 1, "image_size")
        if not 0 <= self.mask_ratio < 1:
            yield f"mask_ratio: {self.mask_ratio} is not in [0, 1)"
        yield from at_least(self, -1, "layer")
        yield from _model_problems(self.model, self.revision)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Section):
    """The two frozen encoders."""

    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Section):
    """From a source folder to frozen features: what of the source is taken, and how it is worked on."""

    form: Literal["auto", "amazon", "ks", "hm", "amazon-2018", "hm-kaggle", "microlens"] = "auto"
    """Which files the source holds; ``auto`` finds out. The first three are the dialects of the authors' release."""

    min_user_interactions: int | None = None
    """Users with fewer are left out, again and again until all that is left has enough; None = 5 for the public
    originals, and the authors' release as it is."""

    min_item_interactions: int | None = None
    """The same of items; None = 5 for Amazon 2018, 1 elsewhere."""

    max_users: int | None = None
    """Take so many of the users, drawn at random; None = all."""

    sample_seed: int = 1
    """Seed of that draw."""

    missing_images: Literal["fail", "drop", "blank"] = "fail"
    """Items without a whole picture: stop and list them, leave them out of all sequences, or give them a grey one."""

    batch_size: int = 64
    """Items encoded at once; each batch is kept as soon as it is done."""

    workers: int | None = None
    """Processes that decode pictures; None = one a CPU, eight at most, and none for a few hundred pictures."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the encoders; ``auto``: fp32 on a CPU, fp16 on a GPU, and what a store holds is kept; else a
    store made in another one is extracted again. Features are kept in float16 in any case."""

    download_connections: int = 8
    """Pictures fetched at once."""

    download_retries: int = 4
    """Further tries of a picture after a fault that may pass, each after a longer wait."""

    download_timeout_seconds: float = 30.0
    """Longest wait for a server's answer, and for a whole picture twice as long."""

    download_max_bytes: int = 20_000_000
    """Larger files are refused."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of this section."""
        yield from not_finite(self)
        yield from at_least(self, 1, "batch_size", "download_connections", "download_max_bytes")
        yield from at_least(self, 0, "sample_seed", "download_retries")
        for name, bound in (
            ("min_user_interactions", 1),
            ("min_item_interactions", 1),
            ("max_users", 1),
            ("workers", 0),
        ):
            if getattr(self, name) is not None:
                yield from at_least(self, bound, name)
        if not self.download_timeout_seconds > 0:
            yield f"download_timeout_seconds: {self.download_timeout_seconds} is not above 0"
