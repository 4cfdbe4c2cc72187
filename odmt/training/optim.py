"""The optimiser, and the numeric precision of a device."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from odmt.config import TrainConfig
from odmt.errors import ConfigError


class Precision(NamedTuple):
    """How a device computes.

    Attributes:
        autocast: dtype of the matrix products; None = float32 throughout.
        scale_loss: fp16 gradients need a scaled loss.
    """

    autocast: torch.dtype | None
    scale_loss: bool


def choose_precision(name: str, device: torch.device) -> Precision:
    """Turn ``train.precision`` into what the device offers.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if name == "auto":
        if device.type != "cuda":
            return Precision(None, scale_loss=False)
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type != "cuda":
        raise ConfigError("train.precision", [f"fp16 needs a GPU, the device is {device}; use auto, fp32 or bf16"])
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    return Precision(dtype, scale_loss=name == "fp16")


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on every parameter, as the authors use it."""
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
