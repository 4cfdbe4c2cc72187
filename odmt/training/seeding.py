"""Independent random streams from one seed.

Every epoch of every process starts streams of its own, so a run that is resumed after an epoch needs no saved state.
"""

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for a named stream; other names give independent streams."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_torch(seed: int, *names: str | int) -> None:
    """Start torch's global generators (CPU and every GPU) for a named stream."""
    torch.manual_seed(stream_seed(seed, *names))


def user_order(seed: int, epoch: int, num_users: int) -> np.ndarray:
    """Return the order of users in an epoch: a function of the seed and the epoch alone."""
    return np.random.default_rng(stream_seed(seed, "users", epoch)).permutation(num_users)
