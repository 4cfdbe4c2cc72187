"""Room for checkpoints on the study's disk, looked at before any trial starts."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odmt.config import RunConfig
from odmt.errors import ConfigError, ServiceError
from odmt.experiment.arrays import TrialArrays
from odmt.tuning.space import Space
from odmt.tuning.state import Study

KEPT = 3
"""Checkpoints that a trial keeps: the newest two and the best."""
BYTES_PER_PARAMETER = 12
"""Of a checkpoint: the weight and AdamW's two moments, four bytes each."""


def num_parameters(config: RunConfig, arrays: TrialArrays) -> int:
    """Count the numbers of a configuration's model without making them; 0 where it cannot be made."""
    import torch

    from odmt.experiment.shape import empty_model, id_width

    with torch.device("meta"), contextlib.suppress(ValueError):
        model = empty_model(
            config,
            num_items=arrays.split.num_items,
            text_dim=arrays.text.width,
            image_dim=arrays.image.width,
            id_dim=id_width(config, arrays.text.width, arrays.image.width),
        )
        return sum(weight.numel() for weight in model.parameters())
    return 0


def largest_configs(space: Space) -> Iterator[RunConfig]:
    """Yield the incumbent's configuration, and it with each axis that makes the model at its largest."""
    yield space.incumbent_config()
    start = {path: space.incumbent.get(path, axis.probes()[0]) for path, axis in space.axes.items()}
    for path, axis in space.axes.items():
        if path.startswith(("model.", "fusion.", "sequence.")):
            for value in axis.probes():
                with contextlib.suppress(ConfigError):  # possible alone, and not with the others' first values
                    found = space.config_for({**start, path: value})
                    yield found


def largest_checkpoint(space: Space, shared: Any) -> int:
    """Return the bytes of a space's largest checkpoint; ``shared``: what its trials read, in Ray's object store."""
    from odmt.cluster.shared_features import arrays_for

    configs = dict.fromkeys(largest_configs(space))
    return BYTES_PER_PARAMETER * max(num_parameters(config, arrays_for(shared, config)[0]) for config in configs)


def room_sentences(
    folder: Path, study: Study, checkpoint_bytes: int, concurrent: int, free: int | None = None
) -> Iterator[str]:
    """Yield a warning where the checkpoints of the whole study may not fit.

    Args:
        folder: of the study.
        study: as it stands.
        checkpoint_bytes: of the largest checkpoint.
        concurrent: trials at once.
        free: bytes on the disk; None = what it has.

    Raises:
        ServiceError: not even those of the trials at once fit.
    """
    free = shutil.disk_usage(folder).free if free is None else free
    a_trial = KEPT * checkpoint_bytes
    left = study.budget - study.num_ended
    at_once = min(concurrent, left) * (a_trial + checkpoint_bytes)  # one more is being written
    if at_once > free:
        raise ServiceError(
            f"{folder}: {concurrent} trials at once need {at_once / 1e9:.2f} GB for checkpoints (up to {KEPT + 1} of "
            f"{checkpoint_bytes / 1e9:.2f} GB each) and {free / 1e9:.2f} GB are free; make room, set ODMT_HOME to "
            "another disk, or lower resources.max_concurrent_trials"
        )
    whole = left * a_trial
    if whole > free:
        yield (
            f"checkpoints may need {whole / 1e9:.1f} GB in all and {free / 1e9:.1f} GB are free under {folder}; if the "
            "disk fills, the search stops and can be gone on with once there is room"
        )
