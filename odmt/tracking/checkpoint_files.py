"""A trial's best checkpoint on its way to MLflow's artifacts: weights, meta, configuration; no optimiser state."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from odmt.tracking.values import nested

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHECKPOINT_FILES = ("weights.safetensors", "meta.json")

_log = logging.getLogger(__name__)


def send_checkpoint(client: "MlflowClient", run_id: str, checkpoint: Path | None, params: Mapping[str, Any]) -> str:
    """Send what of a checkpoint is not there yet.

    Returns:
        What the run's tag ``odmt.checkpoint`` says: ``sent``, ``none``, or ``missing <file>: <why>``. A local file that
        cannot be read is told, not raised: it would count as a server that is away, and be tried for ever.
    """
    if checkpoint is None:
        return "none"
    checkpoint = _where_it_is(checkpoint)
    there = {Path(item.path).name: item.file_size for item in client.list_artifacts(run_id, "checkpoint")}
    for name in CHECKPOINT_FILES:
        file = checkpoint / name
        try:
            size = _readable_bytes(file)
        except OSError as error:
            return _missing(file, error)
        if there.get(name) == size:
            continue
        try:
            client.log_artifact(run_id, str(file), "checkpoint")
        except OSError:  # of the network, or of the file: it may have gone meanwhile
            try:
                _readable_bytes(file)
            except OSError as error:
                return _missing(file, error)
            raise
    text = yaml.safe_dump(nested(params), sort_keys=False)
    if there.get("config.yaml") != len(text.encode()):
        client.log_text(run_id, text, "checkpoint/config.yaml")
    return "sent"


def _where_it_is(checkpoint: Path) -> Path:
    """Return a checkpoint's folder, or that of the same epoch where a later attempt saved it again."""
    if checkpoint.is_dir():
        return checkpoint
    again = sorted(checkpoint.parent.glob(f"{checkpoint.name.partition('-')[0]}-*"))
    return again[-1] if again else checkpoint


def _readable_bytes(file: Path) -> int:
    """Return a file's size; OSError if it cannot be read."""
    with open(file, "rb") as opened:
        return os.fstat(opened.fileno()).st_size


def _missing(file: Path, error: OSError) -> str:
    _log.warning("checkpoint file %s cannot be read and is not sent to MLflow: %s", file, error)
    return f"missing {file.name}: {error.strerror or error}"
