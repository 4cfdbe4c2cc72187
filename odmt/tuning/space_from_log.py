"""The space of a study, made again from its log: the file may have moved, changed or gone since."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odmt.config import RunConfig, from_mapping
from odmt.errors import ConfigError, StudyError
from odmt.tuning.axes import Axis, read_axis
from odmt.tuning.sections import BudgetConfig, ResourcesConfig, SamplerConfig, SchedulerConfig
from odmt.tuning.space import Space
from odmt.tuning.state import LOG_FORMAT

_IDENTITY = ("config", "axes", "resting", "incumbent", "sampler", "scheduler", "objectives")


def space_of(header: Mapping[str, Any]) -> Space:
    """Return the space that a study was begun with; its resources, which a log does not hold, are the defaults.

    Args:
        header: the log's first record.

    Raises:
        StudyError: the header lacks what an older version did not write.
        ConfigError: what the header says is no space of this version; says what is wrong.
    """
    where = f"the space in the log of study {header.get('study')!r}"
    identity = header["identity"]
    missing = [f"its header lacks {key}" for key in _IDENTITY if key not in identity]
    if (version := header.get("format", 1)) < LOG_FORMAT:
        missing.append(f"its log has format {version}, this version audits {LOG_FORMAT}")
    if missing:
        raise StudyError(
            f"study {header.get('study')!r} was made by an older version: it can be gone on with and reported, not "
            f"audited ({'; '.join(missing)})"
        )
    seconds = header.get("seconds")
    budget = BudgetConfig(
        trials=header["trials"],
        time_hours=None if seconds is None else seconds / 3600,
        max_gpu_hours=header.get("gpu_hours"),
    )
    try:
        return Space(
            name=header["space"],
            path=Path(header["space_file"]),
            description="",
            base=from_mapping(RunConfig, identity["config"], where),
            axes=_axes(identity["axes"], where),
            resting=dict(identity["resting"]),
            incumbent=dict(identity["incumbent"]),
            sampler=from_mapping(SamplerConfig, identity["sampler"], f"{where}: sampler"),
            scheduler=from_mapping(SchedulerConfig, identity["scheduler"], f"{where}: scheduler"),
            budget=budget,
            resources=ResourcesConfig(),
            objectives=dict(identity["objectives"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(where, [f"cannot be read: {type(error).__name__}: {error}"]) from error


def _axes(pairs: Any, where: str) -> dict[str, Axis]:
    problems: list[str] = []
    axes = {path: read_axis(path, mapping, problems) for path, mapping in pairs}
    found = {path: axis for path, axis in axes.items() if axis is not None}
    if problems:
        raise ConfigError(where, problems)
    return found
