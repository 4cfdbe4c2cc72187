"""Which settings a frozen model allows: asked by the encoders of the loaded model, by a dry run of its config.json."""

from collections.abc import Sequence

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.errors import ConfigError
from odmt.features.store import EncoderConfig, modality_of

MASKED_FAMILY = "vit_mae"


def require_layer(config: EncoderConfig, num_blocks: int) -> None:
    """Check that a model has the hidden state that is wanted.

    Raises:
        ConfigError: it has fewer blocks.
    """
    if config.layer > num_blocks:
        raise _refusal(config, f"layer: {config.layer}, but {config.model} has {num_blocks} blocks")


def require_max_tokens(config: TextEncoderConfig, longest: int) -> None:
    """Check that a model has positions for so many tokens.

    Raises:
        ConfigError: it has fewer.
    """
    if config.max_tokens > longest:
        raise _refusal(config, f"max_tokens: {config.max_tokens}, but {config.model} takes {longest}")


def require_image_size(config: ImageEncoderConfig, size: int | Sequence[int]) -> None:
    """Check that a model takes pictures of the size that is wanted.

    Args:
        config: the encoder's section.
        size: pixels a side, or height and width.

    Raises:
        ConfigError: it takes others.
    """
    sides = {size} if isinstance(size, int) else set(size)
    if sides != {config.image_size}:
        takes = size if isinstance(size, int) else " x ".join(map(str, size))
        raise _refusal(config, f"image_size: {config.image_size}, but {config.model} takes {takes}")


def require_maskable(config: ImageEncoderConfig, family: str) -> None:
    """Check that patches are left out of a ViT-MAE only.

    Args:
        config: the encoder's section.
        family: ``model_type`` of the model.

    Raises:
        ConfigError: another family has a ``mask_ratio`` above 0.
    """
    if config.mask_ratio > 0 and family != MASKED_FAMILY:
        raise _refusal(config, f"mask_ratio: {config.mask_ratio}, but {config.model} is no ViT-MAE ({family}); set 0")


def _refusal(config: EncoderConfig, problem: str) -> ConfigError:
    return ConfigError(f"features.{modality_of(config)}", [problem])
