"""The optimiser, and the numeric precision of a device."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    """Return AdamW with weight decay on every parameter, as the authors use it; one fused kernel a parameter."""
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(done_steps: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return what the learning rate is multiplied by in the step after ``done_steps``.

    A linear warm-up over ``warmup_epochs``, then 1, or with the cosine schedule half a cosine from 1 towards 0, which
    the step after the last would reach. A function of the step alone, so that a resumed run needs no state of it.
    Source of the cosine: Loshchilov and Hutter, arXiv:1608.03983, without restarts.
    """
    warmup = math.ceil(config.warmup_epochs * steps_per_epoch)
    if done_steps < warmup:
        return (done_steps + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    total = config.max_epochs * steps_per_epoch
    progress = (done_steps - warmup) / max(1, total - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


@contextmanager
def torch_settings(config: TrainConfig) -> Iterator[None]:
    """Set what holds for the whole process while a run lasts: deterministic kernels if asked for, no TF32."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace or ":4096:8"  # read when the process's first GPU product runs
        torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        if config.deterministic and workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
