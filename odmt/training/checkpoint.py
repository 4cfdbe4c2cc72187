"""Checkpoints of one run: each holds the full state once, appears whole or not at all, and can be resumed exactly.

Layout of a run's folder, one folder a checkpoint::

    e000005-a002-3f9c/     epoch, attempt, random suffix: two attempts never share a name
      weights.safetensors  the model
      state.pt             optimiser, loss scaler (torch.save, loaded with weights_only)
      ranks.npz            of each head the rank of every user's validation target after this epoch, in user order
      meta.json            epoch, attempt, and the metrics of every epoch so far

Random streams need no saving: each epoch starts its own from the seed.
"""

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odmt.errors import CheckpointError
from odmt.files import sync

_NAME = re.compile(r"e(\d{6})-a(\d{3,})-[0-9a-f]+")
_PARTIAL = ".partial-"
RANKS = "ranks.npz"


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after an epoch.

    Attributes:
        epoch: epochs done.
        weights: the model's state dict.
        state: optimiser and scaler.
        history: ``{"epoch": n, "seconds": s, "metrics": {...}}`` for each epoch so far.
        ranks: of each head int32 ``(users,)``, for statistics over users.
    """

    epoch: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    history: list[dict[str, Any]]
    ranks: dict[str, np.ndarray] = field(default_factory=dict)


class CheckpointFolder:
    """Saves and finds the checkpoints of one run; keeps the newest two and the best."""

    def __init__(
        self, folder: Path, *, attempt: int = 1, every_epochs: int = 1, also_at: frozenset[int] = frozenset()
    ) -> None:
        """Open a run's folder.

        Args:
            folder: made at the first save.
            attempt: counts the starts of this run from 1; leftovers of lower attempts are swept at the first save.
            every_epochs: epochs between checkpoints.
            also_at: epochs that are saved in any case.
        """
        self.folder = folder
        self.attempt = attempt
        self.every_epochs = every_epochs
        self.also_at = also_at

    def is_due(self, epoch: int, *, last: bool, best: bool) -> bool:
        """Tell whether the state after this epoch is to be saved."""
        return last or best or epoch % self.every_epochs == 0 or epoch in self.also_at

    def save(self, checkpoint: Checkpoint, best_epoch: int) -> Path:
        """Write a checkpoint, then drop those that are neither new nor best.

        Returns:
            Its folder, complete and durable.
        """
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep_partial()
        name = f"e{checkpoint.epoch:06d}-a{self.attempt:03d}-{uuid.uuid4().hex[:8]}"
        partial = self.folder / f"{_PARTIAL}a{self.attempt:03d}-{name}"
        partial.mkdir()
        weights = {key: value.detach().cpu().contiguous() for key, value in checkpoint.weights.items()}
        save_file(weights, partial / "weights.safetensors")
        torch.save(checkpoint.state, partial / "state.pt")
        np.savez_compressed(partial / RANKS, allow_pickle=False, **checkpoint.ranks)
        meta = {"epoch": checkpoint.epoch, "attempt": self.attempt, "history": checkpoint.history}
        (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        for path in [*partial.iterdir(), partial]:
            sync(path)
        target = self.folder / name
        partial.rename(target)
        sync(self.folder)
        self._prune(best_epoch)
        return target

    def load_latest(self, device: torch.device) -> Checkpoint | None:
        """Return the newest usable checkpoint; a damaged one falls back to the one before. None = a fresh run.

        Raises:
            CheckpointError: there are checkpoints and none of them can be read.
        """
        found = self.names()
        reason = ""
        for name in reversed(found):
            try:
                return load_checkpoint(self.folder / name, device)
            except CheckpointError as error:
                reason = str(error)
        if found:
            raise CheckpointError(
                f"{self.folder}: none of {len(found)} checkpoints can be read; the last reason: {reason}"
            )
        return None

    def names(self) -> list[str]:
        """Return the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def of_epoch(self, epoch: int) -> Path | None:
        """Return the newest checkpoint of an epoch."""
        found = [name for name in self.names() if name.startswith(f"e{epoch:06d}-")]
        return self.folder / found[-1] if found else None

    def _prune(self, best_epoch: int) -> None:
        newest_first = self.names()[::-1]
        keep = {name for name in newest_first if name.startswith(f"e{best_epoch:06d}-")} | set(newest_first[:2])
        for name in newest_first:
            if name not in keep:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _sweep_partial(self) -> None:
        for path in self.folder.glob(f"{_PARTIAL}*"):
            attempt = int(path.name.removeprefix(_PARTIAL)[1:].partition("-")[0])
            if attempt < self.attempt:
                shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(folder: Path, device: torch.device) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        with np.load(folder / RANKS) as archive:
            ranks = dict(archive)
        return Checkpoint(int(meta["epoch"]), load_weights(folder, device), state, meta["history"], ranks)
    except CheckpointError:
        raise
    except Exception as error:  # torch.load and json raise many kinds for a damaged file
        raise CheckpointError(f"{folder}: cannot be read: {error}") from error


def load_weights(folder: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read a checkpoint's weights alone.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(folder / "weights.safetensors", device=str(device))
        return weights
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / 'weights.safetensors'}: cannot be read: {error}") from error


def best_epoch_of(history: list[Mapping[str, Any]] | list[dict[str, Any]], metric: str) -> int:
    """Return the epoch with the highest metric; the first of equals."""
    best = max(history, key=lambda entry: (entry["metrics"][metric], -entry["epoch"]))
    return int(best["epoch"])
