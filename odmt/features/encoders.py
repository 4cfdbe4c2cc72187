"""The frozen encoders: titles and pictures in, features of their real tokens out.

Shape letters, used as name suffixes in this file:
    B items, T text tokens (padded), V image tokens, D features
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.errors import ConfigError, DataError, MissingDataError
from odmt.features.store import EncoderConfig, modality_of, model_folder

# Weights that no kept hidden state depends on; folders saved without them are fine.
_UNUSED_WEIGHTS = re.compile(r"(^|\.)(pooler|post_layernorm|visual_projection)\.")


class TokenizedTitles(NamedTuple):
    """Token ids, padded with 0 to ``max_tokens``, and which of them are real.

    Attributes:
        ids: int64 ``(B, max_tokens)``.
        mask: bool ``(B, max_tokens)``.
    """

    ids: np.ndarray
    mask: np.ndarray


def tokenize(tokenizer: Any, titles: Sequence[str], max_tokens: int, *, lower_case: bool) -> TokenizedTitles:
    """Turn titles into token ids: summary token, words, separator; longer titles are cut.

    Args:
        tokenizer: a Hugging Face tokenizer.
        titles: B titles; an empty one gives the two special tokens.
        max_tokens: T, special tokens included.
        lower_case: lower-case the titles first, as the authors do.
    """
    texts = [title.lower() for title in titles] if lower_case else list(titles)
    encoded = tokenizer(texts, max_length=max_tokens, padding="max_length", truncation=True, return_attention_mask=True)
    return TokenizedTitles(np.array(encoded["input_ids"], np.int64), np.array(encoded["attention_mask"], bool))


class TextEncoder:
    """A frozen text encoder with its tokenizer."""

    def __init__(self, config: TextEncoderConfig, dataset_folder: Path) -> None:
        """Load both from a folder or the hub.

        Raises:
            MissingDataError: the model is neither in the folder nor can it be fetched; says where to put it.
            DataError: the folder is no model, or its weights are cut off, incomplete or of other shapes.
            ConfigError: the model has no such layer or takes fewer tokens.
        """
        from transformers import AutoModel, AutoTokenizer

        with _loading(config, dataset_folder) as (where, options):
            self._tokenizer = AutoTokenizer.from_pretrained(where, **options)
            self._model = _whole(AutoModel, where, options)
        self._config = config
        self.max_tokens = config.max_tokens
        self.width, self.commit = _settle(self._model, config)
        longest = getattr(self._model.config, "max_position_embeddings", config.max_tokens)
        if config.max_tokens > longest:
            raise ConfigError("features.text", [f"max_tokens: {config.max_tokens}, but {config.model} takes {longest}"])

    def encode(self, titles: Sequence[str]) -> list[np.ndarray]:
        """Return each title's features.

        Returns:
            B arrays, float32 ``(real tokens, D)``.
        """
        import torch

        ids, mask = tokenize(self._tokenizer, titles, self.max_tokens, lower_case=self._config.lower_case)
        longest = int(mask.sum(axis=1).max())
        device = self._model.device
        with torch.inference_mode(), quiet_transformers():
            hidden_BTD = self._model(
                input_ids=torch.tensor(ids[:, :longest], device=device),
                attention_mask=torch.tensor(mask[:, :longest], device=device).long(),
                output_hidden_states=True,
            ).hidden_states[self._config.layer]
        features_BTD = hidden_BTD.float().cpu().numpy()
        return [features_TD[: int(count)] for features_TD, count in zip(features_BTD, mask.sum(axis=1), strict=True)]


class ImageEncoder:
    """A frozen image encoder; of CLIP the vision tower only."""

    def __init__(self, config: ImageEncoderConfig, dataset_folder: Path) -> None:
        """Load it from a folder or the hub.

        Raises:
            MissingDataError: the model is neither in the folder nor can it be fetched; says where to put it.
            DataError: the folder is no model, or its weights are cut off, incomplete or of other shapes.
            ConfigError: the model has no such layer, another image size, or no processor of its own.
        """
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPVisionModel

        with _loading(config, dataset_folder) as (where, options):
            kind = AutoConfig.from_pretrained(where, **options).model_type
            if kind == "vit_mae":
                raise ConfigError("features.image", [f"model: {config.model} shuffles its tokens; take a plain ViT"])
            loader = CLIPVisionModel if kind in ("clip", "clip_vision_model") else AutoModel
            self._model = _whole(loader, where, options)
            self._mean, self._deviation = np.full(3, 0.5), np.full(3, 0.5)
            if config.normalisation == "processor":
                processor = AutoImageProcessor.from_pretrained(where, **options)
                self._mean, self._deviation = np.array(processor.image_mean), np.array(processor.image_std)
        self._config = config
        self._model.config.tie_last_hidden_states = False  # the last state is meant before the final LayerNorm
        self.width, self.commit = _settle(self._model, config)
        size = getattr(self._model.config, "image_size", config.image_size)
        if size != config.image_size:
            raise ConfigError("features.image", [f"image_size: {config.image_size}, but {config.model} takes {size}"])
        self.max_tokens = len(self.encode([Image.new("RGB", (size, size))])[0])

    def encode(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return each picture's features; pictures are resized without cropping.

        Returns:
            B arrays, float32 ``(V, D)``.
        """
        import torch

        size = (self._config.image_size, self._config.image_size)
        pixels = np.stack([np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in images])
        scaled = (pixels.astype(np.float32) / 255.0 - self._mean) / self._deviation
        batch = torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32, device=self._model.device)
        with torch.inference_mode(), quiet_transformers():
            hidden_BVD = self._model(pixel_values=batch, output_hidden_states=True).hidden_states[self._config.layer]
        if hidden_BVD.ndim != 3:
            raise ConfigError("features.image", [f"model: {self._config.model} gives no tokens but {hidden_BVD.shape}"])
        return list(hidden_BVD.float().cpu().numpy())


def load_encoder(config: EncoderConfig, dataset_folder: Path) -> TextEncoder | ImageEncoder:
    """Load the encoder that a configuration means."""
    if isinstance(config, TextEncoderConfig):
        return TextEncoder(config, dataset_folder)
    return ImageEncoder(config, dataset_folder)


def _whole(loader: Any, where: str, options: dict[str, Any]) -> Any:
    """Load a model; transformers itself fills weights that it does not find with random numbers.

    Raises:
        DataError: weights that the features depend on are missing or have another shape.
    """
    model, found = loader.from_pretrained(where, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    mismatched = {name for name, *_ in found["mismatched_keys"]}
    for how, names in (("lack", found["missing_keys"]), ("have another shape of", mismatched)):
        needed = sorted(name for name in names if not _UNUSED_WEIGHTS.search(name))
        if needed:
            more = f" and {len(needed) - 3} more" if len(needed) > 3 else ""
            raise DataError(f"{where}: its weights {how} {', '.join(needed[:3])}{more}; fetch the whole model")
    return model


def _settle(model: Any, config: EncoderConfig) -> tuple[int, str | None]:
    """Freeze a model on the best device; return its width and, of a hub model, the commit."""
    import torch

    layers = model.config.num_hidden_layers
    if config.layer > layers:
        where = f"features.{modality_of(config)}"
        raise ConfigError(where, [f"layer: {config.layer}, but {config.model} has {layers} blocks"])
    model.requires_grad_(False).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return int(model.config.hidden_size), getattr(model.config, "_commit_hash", None)


@contextlib.contextmanager
def _loading(config: EncoderConfig, dataset_folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what ``from_pretrained`` needs, and turn its many errors into one sentence."""
    from safetensors import SafetensorError

    folder = model_folder(config, dataset_folder)
    options = {"local_files_only": True} if folder else {"revision": config.revision}
    kind = modality_of(config)
    try:
        with quiet_transformers():
            yield str(folder or config.model), options
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{folder or config.model}: its weights cannot be read: {reason}; fetch them again") from error
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if folder:
            raise DataError(f"{folder}: is not a usable Hugging Face folder: {reason}") from error
        own = dataset_folder / "encoders" / config.model.rsplit("/", 1)[-1]
        raise MissingDataError(
            f"features.{kind}.model: {config.model} could not be fetched ({reason}); put its folder (config.json, "
            f"weights, {'tokenizer' if kind == 'text' else 'preprocessor_config.json'}) at {own}"
            f" and set features.{kind}.model to ./encoders/{own.name}"
        ) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars, advice and warnings of transformers and the hub, by name, for a while."""
    from transformers.utils import logging as transformers_logging

    hub = logging.getLogger("huggingface_hub")
    levels = transformers_logging.get_verbosity(), hub.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|huggingface_hub)(\.|$)")
            yield
    finally:
        transformers_logging.set_verbosity(levels[0])
        hub.setLevel(levels[1])
        if bars:
            transformers_logging.enable_progress_bar()
