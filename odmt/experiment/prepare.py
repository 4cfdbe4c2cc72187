"""Prepare a data set in four stages: import, images, features, verify.

Each stage does only what is missing or out of date, so the same command goes on after an interruption and says
"up to date" when there is nothing to do.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.data import demo
from odmt.data.interactions import (
    Catalogue,
    Interactions,
    content_digest,
    dataset_digest,
    dataset_exists,
    prepare_command,
    read_catalogue,
    read_interactions,
    readable_digest,
    write_dataset,
)
from odmt.data.ownership import owned, sweep
from odmt.data.sources.amazon import picture_files, read_amazon
from odmt.errors import DataError, FeatureStoreError, MissingDataError
from odmt.features.extract import extract
from odmt.features.images import IMAGES_FILE, build_image_store, image_digests
from odmt.features.store import EncoderConfig, feature_store_path, load_features, modality_of
from odmt.files import write_atomically
from odmt.home import Home

Stage = Literal["import", "images", "features", "verify"]
STAGES: tuple[Stage, ...] = ("import", "images", "features", "verify")
SOURCE_FILE = "source.json"


@dataclass(frozen=True, kw_only=True)
class PreparePlan:
    """What to prepare, and from what."""

    dataset: str
    """Name of the data set."""

    source: Path | None = None
    """Folder in the authors' Amazon layout; None = the one of the last import, or the generated demo."""

    generate_demo: bool = False
    """Generate the demo data set inside the data set's folder and take it as the source."""

    tiny_encoders: bool = False
    """Make tiny encoders inside the data set's folder."""

    text_encoders: tuple[TextEncoderConfig, ...] = ()
    """Text encoders to extract features from."""

    image_encoders: tuple[ImageEncoderConfig, ...] = ()
    """Image encoders to extract features from."""

    stages: tuple[Stage, ...] = STAGES
    """Stages to run, in this order."""

    @property
    def encoders(self) -> tuple[EncoderConfig, ...]:
        """All encoders."""
        return self.text_encoders + self.image_encoders


class StageReport(NamedTuple):
    """What a stage did.

    Attributes:
        stage: its name.
        changed: False if everything was up to date.
        summary: counts and sizes in words.
        seconds: wall clock.
    """

    stage: Stage
    changed: bool
    summary: str
    seconds: float


def prepare(home: Home, plan: PreparePlan, on_stage: Callable[[StageReport], None] | None = None) -> list[StageReport]:
    """Run the stages of a plan.

    Args:
        home: the root of all data.
        plan: what to prepare.
        on_stage: called after every stage.

    Raises:
        MissingDataError: the source, or an encoder, is not there.
        DataError: the source is malformed, pictures are missing or broken, or another process prepares the data set.
        FeatureStoreError: a store is unreadable, or what was written does not read back.
    """
    bodies = {"import": _import, "images": _images, "features": _features, "verify": _verify}
    reports = []
    folder = home.dataset(plan.dataset)
    with owned(folder):
        for stage in plan.stages:
            started = time.perf_counter()
            sweep(folder)
            changed, summary = bodies[stage](home, plan)
            reports.append(StageReport(stage, changed, summary, time.perf_counter() - started))
            if on_stage:
                on_stage(reports[-1])
    return reports


def _import(home: Home, plan: PreparePlan) -> tuple[bool, str]:
    folder = home.dataset(plan.dataset)
    if plan.generate_demo and not (folder / "source").is_dir():
        demo.generate(folder / "source")
    source = _source(home, plan)
    if source is None:
        catalogue = read_catalogue(folder)
        return False, _counted(read_interactions(folder, catalogue), catalogue)
    interactions, catalogue, _ = read_amazon(source)
    changed = readable_digest(folder) != content_digest(interactions, catalogue)
    if changed:
        write_dataset(folder, interactions, catalogue)
    stamp = json.dumps({"source": str(source)}).encode()
    if not (folder / SOURCE_FILE).is_file() or (folder / SOURCE_FILE).read_bytes() != stamp:
        write_atomically(folder / SOURCE_FILE, stamp)
    return changed, _counted(interactions, catalogue)


def _source(home: Home, plan: PreparePlan) -> Path | None:
    """Return the source folder; None if the data set was imported and its source is no longer there.

    Raises:
        MissingDataError: there is no source and no import; names the command.
    """
    folder = home.dataset(plan.dataset)
    if plan.source is not None:
        return plan.source.expanduser().absolute()
    if plan.generate_demo and (folder / "source").is_dir():
        return folder / "source"
    remembered = folder / SOURCE_FILE
    if remembered.is_file():
        try:
            source = Path(json.loads(remembered.read_text(encoding="utf-8"))["source"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{remembered}: is damaged; run: {prepare_command(plan.dataset)}") from error
        if source.is_dir():
            return source
    if dataset_exists(folder):
        return None
    raise MissingDataError(
        f"data set {plan.dataset!r} has never been imported into {folder}; run: {prepare_command(plan.dataset)}"
    )


def _counted(interactions: Interactions, catalogue: Catalogue) -> str:
    users, actions = len(interactions.users), len(interactions.items)
    return f"{users:,} users, {len(catalogue.item_ids):,} items, {actions:,} interactions"


def _occurring(home: Home, plan: PreparePlan) -> tuple[Catalogue, np.ndarray]:
    folder = home.dataset(plan.dataset)
    catalogue = read_catalogue(folder)
    return catalogue, read_interactions(folder, catalogue).occurring_rows


def _images(home: Home, plan: PreparePlan) -> tuple[bool, str]:
    folder = home.dataset(plan.dataset)
    catalogue, rows = _occurring(home, plan)
    items = [catalogue.item_ids[row] for row in rows]
    source = _source(home, plan)
    if source is None:
        lacking = [item for item in items if item not in image_digests(folder)]
        if lacking:
            raise FeatureStoreError(
                f"{folder / IMAGES_FILE}: holds no picture of {len(lacking)} items, such as {lacking[0]!r}, and the "
                f"source is gone; run: {prepare_command(plan.dataset)}"
            )
        return False, f"{len(items):,} pictures"
    result = build_image_store(folder, picture_files(source / "images"), items)
    return result.built, f"{result.num_images:,} pictures, {_megabytes(result.size_bytes)}"


def _features(home: Home, plan: PreparePlan) -> tuple[bool, str]:
    catalogue, rows = _occurring(home, plan)
    made = False
    if plan.tiny_encoders:
        from odmt.features.demo_encoders import make_tiny_encoders, tiny_encoders_exist

        folder = home.dataset(plan.dataset)
        made = not tiny_encoders_exist(folder) and make_tiny_encoders(folder, catalogue.titles)
    words = ["made tiny encoders"] if made else []
    for encoder in plan.encoders:
        result = extract(home, plan.dataset, encoder, catalogue, rows)
        made = made or result.extracted > 0
        size = _megabytes(result.path.stat().st_size)
        words.append(
            f"{modality_of(encoder)} {encoder.model}: {result.extracted:,} of {result.total:,} extracted, {size}"
        )
    return made, "; ".join(words) or "no encoders asked for"


def _verify(home: Home, plan: PreparePlan) -> tuple[bool, str]:
    """Read everything back as a study would, and look at the numbers once."""
    catalogue, rows = _occurring(home, plan)
    words = [f"data {dataset_digest(home.dataset(plan.dataset))}"]
    for encoder in plan.encoders:
        path = feature_store_path(home, plan.dataset, encoder)
        features = load_features(home, plan.dataset, encoder, catalogue, rows)
        lengths = np.diff(features.offsets)
        if not np.isfinite(features.tokens).all():
            raise FeatureStoreError(f"{path}: holds NaN or infinite features; delete it and prepare again")
        if int((lengths > 0).sum()) != len(rows):
            raise FeatureStoreError(f"{path}: {int((lengths > 0).sum())} items have features, expected {len(rows)}")
        words.append(
            f"{modality_of(encoder)} {len(rows):,} items x {lengths[rows].mean():.1f} tokens x {features.width}"
        )
    return False, ", ".join(words)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def with_stages(plan: PreparePlan, stage: str | None) -> PreparePlan:
    """Return the plan limited to one stage, or as it is for None."""
    known = [name for name in STAGES if name == stage]
    return dataclasses.replace(plan, stages=tuple(known)) if stage else plan
