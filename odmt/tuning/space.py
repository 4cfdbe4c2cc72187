"""A search space: one YAML file that says what is searched, how, and for how long."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odmt.config import (
    DataConfig,
    ImageEncoderConfig,
    PrepareConfig,
    RunConfig,
    Section,
    TextEncoderConfig,
    dotted_values,
    effective_values,
    replace_values,
    to_mapping,
)
from odmt.tuning.axes import Axis, same
from odmt.tuning.sections import BudgetConfig, ResourcesConfig, SamplerConfig, SchedulerConfig
from odmt.tuning.trials import METRIC


@dataclass(frozen=True)
class Space:
    """What ``load_space`` returns: a space every reachable corner of which has been checked."""

    name: str
    path: Path
    description: str
    base: RunConfig
    """Defaults, ``fixed``, ``--set`` and the incumbent's values."""
    axes: Mapping[str, Axis]
    """By dotted path, each after the axes its condition names."""
    resting: Mapping[str, Any]
    """What a conditional axis' setting is while the axis does not exist: the fixed value or the default."""
    incumbent: Mapping[str, Any]
    sampler: SamplerConfig
    scheduler: SchedulerConfig
    budget: BudgetConfig
    resources: ResourcesConfig
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """How the data set is made of its source; read by prepare alone, and no part of a study's identity."""
    objectives: Mapping[str, str] = field(default_factory=lambda: {METRIC: "max"})
    """Metrics with ``max`` or ``min``, the validation metric first."""
    _canonical: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def active_axes(self, values: Mapping[str, Any]) -> list[str]:
        """Return the axes that exist at these values, in the order in which they are proposed."""
        active: list[str] = []
        for path, axis in self.axes.items():
            if self.is_active(axis, values, active):
                active.append(path)
        return active

    def is_active(self, axis: Axis, values: Mapping[str, Any], active: Sequence[str]) -> bool:
        """Say whether an axis exists, given the earlier axes' values and which of them exist."""
        fixed = dotted_values(self.base) if axis.when else {}
        for path, allowed in axis.when.items():
            if path in self.axes and path not in active:
                return False
            value = values[path] if path in self.axes else fixed[path]
            if not any(same(value, option) for option in allowed):
                return False
        return True

    def config_for(self, values: Mapping[str, Any]) -> RunConfig:
        """Return the configuration of a trial at these values.

        Raises:
            ConfigError: a value that is not possible; does not happen with values a sampler proposed.
        """
        active = self.active_axes(values)
        chosen = {path: values[path] for path in active}
        return replace_values(self.base, {**self.resting, **chosen}, self.path)

    def canonical(self, values: Mapping[str, Any]) -> str:
        """Return a text that is equal for values that make the same run: settings that do nothing are left out."""
        key = canonical_json(dict(values))
        if key not in self._canonical:
            resolved = effective_values(self.config_for(values))
            found = {path: resolved[path] for path in self.axes if path in resolved}
            self._canonical[key] = canonical_json(found)
        return self._canonical[key]

    def incumbent_config(self) -> RunConfig:
        """Return the configuration of the first trial."""
        return self.config_for(self.incumbent)

    def identity(self) -> dict[str, Any]:
        """Return what makes a study's trials what they are: everything but budget, resources and wording."""
        return {
            "config": to_mapping(self.base),
            "axes": [[path, axis.to_mapping()] for path, axis in self.axes.items()],
            "resting": dict(self.resting),
            "incumbent": dict(self.incumbent),
            "sampler": to_mapping(self.sampler),
            "scheduler": to_mapping(self.scheduler),
            "objectives": dict(self.objectives),
        }

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the identity."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()

    def encoders(self) -> tuple[list[TextEncoderConfig], list[ImageEncoderConfig]]:
        """Return the distinct text and image encoders that trials of this space can ask for."""
        sections = [config.features for config in self.loaded_configs()]
        return distinct(item.text for item in sections), distinct(item.image for item in sections)

    def data_configs(self) -> list[DataConfig]:
        """Return the distinct data sections that trials of this space can ask for."""
        return distinct(config.data for config in self.loaded_configs())

    def loaded_configs(self) -> Iterator[RunConfig]:
        """Yield a configuration for everything that a trial can load; what no trial proposes is left out.

        What nothing loaded depends on is the incumbent's.
        """
        reached: list[dict[str, Any]] = [{}]
        for path in self._deciding():
            axis, options = self.axes[path], self._options(path)
            reached = [
                {**values, **choice}
                for values in reached
                for choice in (
                    [{path: option} for option in options] if self.is_active(axis, values, list(values)) else [{}]
                )
            ]
        settings = [{**self.resting, **values} for values in reached]
        loaded = [{path: value for path, value in found.items() if _is_loaded(path)} for found in settings]
        yield from dict.fromkeys(replace_values(self.base, values, self.path) for values in loaded)

    def _deciding(self) -> list[str]:
        """Return the axes that decide what is loaded, and those that their conditions depend on, parents first."""
        deciding: set[str] = set()
        for path, axis in reversed(list(self.axes.items())):
            if _is_loaded(path) or path in deciding:
                deciding |= {path, *(parent for parent in axis.when if parent in self.axes)}
        return [path for path in self.axes if path in deciding]

    def _options(self, path: str) -> list[Any]:
        """Return the values to tell apart: all that are loaded; else those that conditions name, and one other."""
        axis = self.axes[path]
        if _is_loaded(path):
            return list(axis.values)
        named = [value for other in self.axes.values() for value in other.when.get(path, ())]
        values = axis.listed() or (*axis.probes(), (axis.low + axis.high) / 2)
        others = [value for value in values if not any(same(value, option) for option in named)]
        return [*named, *others[:1]]


def _is_loaded(path: str) -> bool:
    return path.startswith(("data.", "features."))


def distinct(sections: Iterator[Section]) -> list[Any]:
    """Return the sections without repetition, in the order of their first appearance."""
    return list(dict.fromkeys(sections))


def canonical_json(value: Any) -> str:
    """Return JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def load_space(name_or_path: str, assignments: Sequence[str] = (), *, preparing: bool = False) -> Space:
    """Load and check a space, with ``--set`` assignments applied.

    Args:
        name_or_path: ``arts`` for the shipped ``search_spaces/arts.yaml``; anything with ``/`` or ``.yaml`` is a file.
        assignments: ``key=value`` texts: a path of the run configuration, or ``budget.trials`` and the like.
        preparing: ``prepare.*`` may be set; nobody but prepare reads it.

    Raises:
        ConfigError: every problem of the file and of the assignments at once.
    """
    from odmt.tuning.space_loading import read_space

    return read_space(name_or_path, assignments, preparing=preparing)
