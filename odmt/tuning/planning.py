"""Look at the space, the prepared data, this machine and earlier studies, without training and without Ray."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from odmt.cluster.connect import Place, choose_place, store_bytes
from odmt.config import RunConfig
from odmt.errors import OdmtError, ServiceError
from odmt.features.store import feature_store_path, held_manifest
from odmt.features.workers import usable_cpus
from odmt.home import Home
from odmt.tuning.earlier import earlier_pace
from odmt.tuning.extremes import DataShape, Extreme, FeatureShape, extremes, most_parameters
from odmt.tuning.plan import Pace, Plan, bracket_plans, combinations
from odmt.tuning.preflight import Inputs, Source
from odmt.tuning.rehearsal import Asked, rehearsed
from odmt.tuning.resources import resource_sentences, trial_resources
from odmt.tuning.room import KEPT, size_of_checkpoint
from odmt.tuning.space import Space
from odmt.tuning.wording import counted

__all__ = ["Asked", "Outlook", "Room", "make_outlook"]

_WEIGHT_BYTES = 4
_USUAL = FeatureShape(50, 768)
"""Of a feature store whose manifest cannot be read."""


@dataclass(frozen=True)
class Room:
    """Something that is needed, and what there is of it; bytes."""

    what: str
    needed: float
    free: float

    @property
    def is_short(self) -> bool:
        """Say whether there is too little."""
        return self.needed > self.free


@dataclass(frozen=True)
class Outlook:
    """Everything that the plan of a search shows."""

    plan: Plan
    place: Place
    standing: str
    """What a start would do with the study's name."""
    refusal: OdmtError | None
    """Why it would be refused; None = it would not."""
    combinations: int | None
    inputs: Inputs
    smallest: Extreme
    largest: Extreme
    disk: tuple[Room, ...]
    store: str
    machine: str
    warnings: tuple[str, ...] = ()

    def with_pace(self, pace: Pace | None) -> "Outlook":
        """Return the same with a pace that was measured; None = it could not be."""
        return replace(self, plan=replace(self.plan, pace=pace))


def machine_size() -> tuple[int, int]:
    """Return the CPUs and GPUs of this machine that this process may use; neither Ray nor torch is asked."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return usable_cpus(), len([one for one in visible.split(",") if one.strip() not in ("", "-1")])
    return usable_cpus(), len(list(Path("/dev").glob("nvidia[0-9]*")))


def make_outlook(space: Space, home: Home, asked: Asked, inputs: Inputs | None = None) -> Outlook:
    """Plan a search; its pace is that of an earlier study, if there is one.

    Args:
        space: what is searched.
        home: the root of all data.
        asked: the rest.
        inputs: what the source of the inputs gave; None = ask it now.

    Raises:
        DataError: prepared data is missing; names the command that prepares it.
        ConfigError: the place is not usable.
    """
    place = choose_place(asked.where)
    inputs = inputs or asked.source.inputs(home, space)
    warnings: list[str] = []
    shape = data_shape(home, space, asked.source)
    smallest, largest = extremes(space, shape)
    found = combinations(space)
    plan = _plan(space, place, found, most_parameters(space, shape), earlier_pace(home, space, asked.name), warnings)
    disk = tuple(_disk(home, asked.name, plan))
    warnings += [f"{room.what} may need more than is free on the disk" for room in disk if room.is_short]
    standing, refusal = rehearsed(space, home, asked, inputs)
    return Outlook(
        plan=plan,
        place=place,
        standing=standing,
        refusal=refusal,
        combinations=found,
        inputs=inputs,
        smallest=smallest,
        largest=largest,
        disk=disk,
        store=_store(place, inputs.feature_bytes, warnings),
        machine=_machine(place),
        warnings=tuple(warnings),
    )


def _plan(
    space: Space, place: Place, found: int | None, parameters: int, pace: Pace | None, warnings: list[str]
) -> Plan:
    cpus, gpus, concurrent = space.resources.cpus_per_trial, space.resources.gpus_per_trial, None
    if place.is_local:
        has_cpus, has_gpus = machine_size()
        warnings += resource_sentences(space, has_gpus)
        any_type = replace(space, resources=replace(space.resources, accelerator_type=None))  # Ray alone knows types
        try:
            cpus, gpus, concurrent = trial_resources(any_type, has_cpus, has_gpus)
        except ServiceError as error:
            warnings.append(f"no trial fits here: {error}")
    trials = space.budget.trials if found is None else min(space.budget.trials, found)
    max_epochs = space.base.train.max_epochs
    return Plan(
        trials=trials,
        max_epochs=max_epochs,
        brackets=bracket_plans(space.scheduler, trials, max_epochs, space.sampler.seed),
        sentinels=min(space.scheduler.sentinels, trials),
        cpus=cpus,
        gpus=gpus if gpus is not None else float(space.base.train.data_parallel),
        concurrent=concurrent if place.is_local else space.resources.max_concurrent_trials,
        pace=pace,
        time_hours=space.budget.time_hours,
        max_gpu_hours=space.budget.max_gpu_hours,
        parameters=parameters,
    )


def _machine(place: Place) -> str:
    if not place.is_local:
        return f"{place.sentence}; the cluster was not asked what it has"
    cpus, gpus = machine_size()
    return f"{place.sentence}; this machine has {counted(cpus, 'CPU')} and {counted(gpus, 'GPU')}"


def data_shape(home: Home, space: Space, source: Source) -> DataShape:
    """Return how many items there are and what their features are like, from manifests alone."""
    items = max(source.loaders.split(home, data).num_items for data in space.data_configs())
    shapes: dict[Any, FeatureShape] = {}

    def shape(config: RunConfig, modality: str) -> FeatureShape:
        encoder = getattr(config.features, modality)
        key = (config.data.dataset, encoder)
        if key not in shapes:
            shapes[key] = _feature_shape(home, config.data.dataset, encoder)
        return shapes[key]

    return DataShape(items, lambda config: shape(config, "text"), lambda config: shape(config, "image"))


def _feature_shape(home: Home, dataset: str, encoder: Any) -> FeatureShape:
    try:
        manifest = held_manifest(feature_store_path(home, dataset, encoder))
    except OdmtError:
        manifest = None
    return _USUAL if manifest is None else FeatureShape(manifest["max_tokens"], manifest["width"])


def _disk(home: Home, name: str, plan: Plan) -> Iterator[Room]:
    """Yield what is written, and the room for it."""
    parameters = plan.parameters or 0
    studies, artifacts = _free(home.study(name)), _free(home.artifacts)
    state = size_of_checkpoint(parameters)
    yield Room("checkpoints of one running trial", (KEPT + 1) * state, studies)
    yield Room("checkpoints of all trials", plan.checkpoint_bytes or 0, studies)
    yield Room("weights in MLflow", plan.trials * _WEIGHT_BYTES * parameters, artifacts)


def _free(path: Path) -> int:
    return shutil.disk_usage(next(parent for parent in (path, *path.parents) if parent.exists())).free


def _store(place: Place, feature_bytes: int, warnings: list[str]) -> str:
    if not place.is_local:
        return f"{feature_bytes / 1e6:.1f} MB on each node; the cluster was not asked for its object store"
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared if shared.is_dir() else "/tmp").free
    try:
        held = store_bytes(feature_bytes)
    except ServiceError as error:
        warnings.append(str(error))
        return f"{feature_bytes / 1e6:.1f} MB do not fit: {free / 1e9:.1f} GB are free in shared memory"
    return f"{feature_bytes / 1e6:.1f} MB in a store of {held / 1e9:.1f} GB; {free / 1e9:.1f} GB free in shared memory"
