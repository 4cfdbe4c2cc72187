"""The shape and the cost of a frozen encoder's features, told from its config.json alone.

It serves a dry run: nothing is loaded, and neither torch nor transformers is imported. What it knows of each family
mirrors transformers' modelling code; widths and tokens are exact, parameters and operations estimates.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.errors import DataError, MissingDataError
from odmt.features.encoder_checks import (
    MASKED_FAMILY,
    require_image_size,
    require_layer,
    require_maskable,
    require_max_tokens,
)
from odmt.features.store import EncoderConfig, model_folder

_TEXT_FAMILIES = ("bert", "roberta")
_PLAIN_VISION_FAMILIES = ("clip_vision_model", "vit", MASKED_FAMILY)
_OPERATIONS = 2  # a multiplication and an addition for each parameter and token


class EncoderShape(NamedTuple):
    """What a frozen encoder will give, and what that costs.

    Attributes:
        width: D of the layer that is kept.
        max_tokens: most tokens of an item; of a picture the exact number.
        parameters: of the model that is loaded, about.
        flops_per_item: floating-point operations of one item of ``max_tokens`` tokens, about; attention scores are
            left out.
    """

    width: int
    max_tokens: int
    parameters: int
    flops_per_item: int


class _Part(NamedTuple):
    """Some parameters and for how many of an item's tokens they work; tables are looked up, that is 0."""

    parameters: int
    tokens: int


def encoder_shape(config: EncoderConfig, dataset_folder: Path) -> EncoderShape | None:
    """Return the shape of an encoder's features.

    Args:
        config: which model, and how.
        dataset_folder: where ``./name`` is.

    Returns:
        The shape; None if the model's config.json is neither in its folder nor in the hub's cache on this machine, or
        its family is not one of BERT, RoBERTa, CLIP, ViT, ViT-MAE and Swin.

    Raises:
        DataError: config.json is damaged.
        ConfigError: the settings do not fit the model; the same as loading it would raise.
    """
    file = _config_file(config, dataset_folder)
    if file is None:
        return None
    try:
        model = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(config, TextEncoderConfig):
            return _text_shape(config, model)
        return _image_shape(config, model.get("vision_config", model))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: is no configuration of a model: {type(error).__name__} {error}") from error


def _config_file(config: EncoderConfig, dataset_folder: Path) -> Path | None:
    try:
        folder = model_folder(config, dataset_folder)
    except MissingDataError:
        return None
    if folder is not None:
        return folder / "config.json"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(config.model, "config.json", revision=config.revision)
    except HFValidationError:  # no name that a hub could have
        return None
    return Path(cached) if isinstance(cached, str) else None  # the cache may also know that there is none


def _text_shape(config: TextEncoderConfig, model: Mapping[str, Any]) -> EncoderShape | None:
    if model.get("model_type") not in _TEXT_FAMILIES:
        return None
    width, positions = model["hidden_size"], model["max_position_embeddings"]
    require_max_tokens(config, positions - model["pad_token_id"] - 1 if model["model_type"] == "roberta" else positions)
    require_layer(config, model["num_hidden_layers"])
    tables = (model["vocab_size"] + positions + model.get("type_vocab_size", 2)) * width
    parts = [
        _Part(tables, 0),
        _Part(2 * width + model["num_hidden_layers"] * _block(width, model["intermediate_size"]), config.max_tokens),
        _Part(_linear(width, width), 1),  # the pooler
    ]
    return _shape(width, config.max_tokens, parts)


def _image_shape(config: ImageEncoderConfig, model: Mapping[str, Any]) -> EncoderShape | None:
    family = model.get("model_type", "")
    if family not in (*_PLAIN_VISION_FAMILIES, "swin"):
        return None
    require_maskable(config, family)
    require_image_size(config, model["image_size"])
    return _swin_shape(config, model) if family == "swin" else _plain_vision_shape(config, model)


def _plain_vision_shape(config: ImageEncoderConfig, model: Mapping[str, Any]) -> EncoderShape:
    """Patches of one size with a summary token before them, through blocks of one width."""
    require_layer(config, model["num_hidden_layers"])
    width = model["hidden_size"]
    patch = _side(model["patch_size"])
    num_patches = (config.image_size // patch) ** 2
    kept = num_patches
    if model["model_type"] == MASKED_FAMILY:
        kept = int(num_patches * (1 - config.mask_ratio))  # as ViTMAEEmbeddings.random_masking rounds
    parts = [
        _Part((num_patches + 2) * width, 0),  # positions and the summary token
        _Part(_linear(model.get("num_channels", 3) * patch**2, width), num_patches),
        _Part(2 * width + model["num_hidden_layers"] * _block(width, model["intermediate_size"]), kept + 1),
    ]
    if model["model_type"] == "vit":
        parts.append(_Part(_linear(width, width), 1))  # the pooler
    return _shape(width, kept + 1, parts)


def _swin_shape(config: ImageEncoderConfig, model: Mapping[str, Any]) -> EncoderShape:
    """Stages that halve the grid and double the width; no summary token, so the mean of the tokens comes first."""
    depths, heads = model["depths"], model["num_heads"]
    require_layer(config, len(depths))
    patch, width = _side(model["patch_size"]), model["embed_dim"]
    grid = -(-config.image_size // patch)
    states = [(width, grid**2)]  # width and tokens of each hidden state
    parts = [_Part(_linear(model.get("num_channels", 3) * patch**2, width) + 2 * width, grid**2)]
    if model.get("use_absolute_embeddings"):
        parts.append(_Part(grid**2 * width, 0))
    for stage, depth in enumerate(depths):
        block = _block(width, int(model.get("mlp_ratio", 4) * width))
        bias_table = (2 * model["window_size"] - 1) ** 2 * heads[stage]
        parts += [_Part(depth * block, grid**2), _Part(depth * bias_table, 0)]
        if stage < len(depths) - 1:  # four neighbours become one token
            grid = (grid + 1) // 2
            parts.append(_Part(8 * width**2 + 8 * width, grid**2))
            width *= 2
        states.append((width, grid**2))
    parts.append(_Part(2 * width, grid**2))
    kept_width, kept_tokens = states[config.layer]
    return _shape(kept_width, kept_tokens + 1, parts)


def _shape(width: int, max_tokens: int, parts: list[_Part]) -> EncoderShape:
    parameters = sum(part.parameters for part in parts)
    flops = _OPERATIONS * sum(part.parameters * part.tokens for part in parts)
    return EncoderShape(width, max_tokens, parameters, flops)


def _block(width: int, inner: int) -> int:
    """Parameters of a transformer block: four projections, a feed-forward of two layers, two LayerNorms."""
    return 4 * _linear(width, width) + _linear(width, inner) + _linear(inner, width) + 4 * width


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _side(size: Any) -> int:
    """Return pixels a side of a size that is one number or a height and a width."""
    return int(size if isinstance(size, int) else size[0])
