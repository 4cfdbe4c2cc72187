"""The frozen encoders: titles and pictures in, features of their real tokens out."""

from pathlib import Path

from odmt.config import TextEncoderConfig
from odmt.features.image_encoder import ImageEncoder
from odmt.features.loading import Precision
from odmt.features.store import EncoderConfig
from odmt.features.text_encoder import TextEncoder

__all__ = ["ImageEncoder", "Precision", "TextEncoder", "load_encoder"]


def load_encoder(
    config: EncoderConfig,
    dataset_folder: Path,
    device: str = "cpu",
    precision: Precision = "fp32",
    files: Path | None = None,
) -> TextEncoder | ImageEncoder:
    """Load the encoder that a configuration means; see its class for arguments and errors."""
    if isinstance(config, TextEncoderConfig):
        return TextEncoder(config, dataset_folder, device, precision, files)
    return ImageEncoder(config, dataset_folder, device, precision, files)
