"""Independent random streams from one seed, and their capture for an exact resume."""

import hashlib
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for a named stream; other names give independent streams."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_torch(seed: int, stream: str) -> None:
    """Start torch's global generators (CPU and every GPU) for a stream."""
    torch.manual_seed(stream_seed(seed, stream))


def user_order(seed: int, epoch: int, num_users: int) -> np.ndarray:
    """Return the order of users in an epoch: a function of the seed and the epoch alone."""
    return np.random.default_rng(stream_seed(seed, "users", epoch)).permutation(num_users)


def random_state() -> dict[str, Any]:
    """Capture torch's global generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def restore_random_state(state: dict[str, Any]) -> None:
    """Put torch's global generators back; a run that moved to fewer or more GPUs keeps what fits."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        for index, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(generator, index)
