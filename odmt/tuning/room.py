"""Room for checkpoints on the study's disk, looked at before any trial starts."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odmt.config import RunConfig
from odmt.errors import ServiceError
from odmt.experiment.arrays import TrialArrays
from odmt.tuning.extremes import DataShape, FeatureShape, most_parameters
from odmt.tuning.space import Space
from odmt.tuning.state import Study
from odmt.tuning.studies import sizes

KEPT = 3
"""Checkpoints that a trial keeps: the newest two and the best."""
BYTES_PER_PARAMETER = 12
"""Of a checkpoint: the weight and AdamW's two moments, four bytes each."""


def size_of_checkpoint(parameters: int) -> int:
    """Return the bytes of a checkpoint of a model with so many trainable numbers."""
    return BYTES_PER_PARAMETER * parameters


def largest_checkpoint(space: Space, shared: Any) -> int:
    """Return the bytes of a space's largest checkpoint; ``shared``: what its trials read, in Ray's object store."""
    from odmt.cluster.shared_features import arrays_for

    def arrays(config: RunConfig) -> TrialArrays:
        return arrays_for(shared, config)[0]

    items = max(arrays(config).split.num_items for config in space.loaded_configs())
    data = DataShape(
        items,
        lambda config: FeatureShape(1, arrays(config).text.width),  # tokens change work, not parameters
        lambda config: FeatureShape(1, arrays(config).image.width),
    )
    return size_of_checkpoint(most_parameters(space, data))


def room_sentences(
    folder: Path, study: Study, a_checkpoint: int, concurrent: int, free: int | None = None
) -> Iterator[str]:
    """Yield a warning where the checkpoints of the whole study may not fit, beside those that are there.

    Args:
        folder: of the study.
        study: as it stands.
        a_checkpoint: bytes of the largest one.
        concurrent: trials at once.
        free: bytes on the disk; None = what it has.

    Raises:
        ServiceError: not even those of the trials at once fit.
    """
    free = shutil.disk_usage(folder).free if free is None else free
    a_trial = KEPT * a_checkpoint
    left = study.budget - study.num_ended
    there = sizes(folder).trials
    held = [min(a_trial, there.get(trial.trial_id, 0)) for trial in study.interrupted]
    at_once = min(concurrent, left) * (a_trial + a_checkpoint) - sum(held[:concurrent])  # one more is being written
    if at_once > free:
        raise ServiceError(
            f"{folder}: {concurrent} trials at once need {at_once / 1e9:.2f} GB for checkpoints (up to {KEPT + 1} of "
            f"{a_checkpoint / 1e9:.2f} GB each) and {free / 1e9:.2f} GB are free; make room, set ODMT_HOME to "
            "another disk, or lower resources.max_concurrent_trials"
        )
    whole = left * a_trial - sum(held)
    if whole > free:
        yield (
            f"checkpoints may need {whole / 1e9:.1f} GB in all and {free / 1e9:.1f} GB are free under {folder}; if the "
            "disk fills, the search stops and can be gone on with once there is room"
        )
