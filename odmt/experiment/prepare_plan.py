"""What to prepare, and what a stage did: the words that the stages share."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from odmt.config import ImageEncoderConfig, PrepareConfig, TextEncoderConfig
from odmt.data.imported import ImportRecord, read_record
from odmt.data.interactions import Catalogue, Interactions, prepare_command
from odmt.errors import MissingDataError
from odmt.features.encoding import LocalEncoding, OpenEncoding
from odmt.features.store import EncoderConfig
from odmt.home import Home

Stage = Literal["import", "images", "features", "verify"]
STAGES: tuple[Stage, ...] = ("import", "images", "features", "verify")
DEMO_SOURCE = "source"
"""Folder of the generated demo set, inside the data set's own."""


def _silent(sentence: str) -> None:
    del sentence


@dataclass(frozen=True, kw_only=True)
class PreparePlan:
    """What to prepare, and from what."""

    dataset: str
    """Name of the data set."""

    source: Path | None = None
    """Folder of the source; None = the one of the last import, or the generated demo."""

    generate_demo: bool = False
    """Generate the demo data set inside the data set's folder and take it as the source."""

    tiny_encoders: bool = False
    """Make tiny encoders inside the data set's folder."""

    text_encoders: tuple[TextEncoderConfig, ...] = ()
    """Text encoders to extract features from."""

    image_encoders: tuple[ImageEncoderConfig, ...] = ()
    """Image encoders to extract features from."""

    settings: PrepareConfig = field(default_factory=PrepareConfig)
    """What of the source is taken, and how it is worked on."""

    download: bool = False
    """Fetch pictures from the addresses that the source names."""

    preview: bool = False
    """Draw a sheet of items with their pictures and titles."""

    stages: tuple[Stage, ...] = STAGES
    """Stages to run, in this order."""

    verify_always: bool = False
    """Read everything back even if nothing has changed since that was done."""

    open_encoding: OpenEncoding = LocalEncoding
    """Loads an encoder where it is to run."""

    tell: Callable[[str], None] = _silent
    """Told what is found out while a stage works."""

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
        notes: further lines: what was left out and why.
    """

    stage: Stage
    changed: bool
    summary: str
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def with_stages(plan: PreparePlan, stage: str | None) -> PreparePlan:
    """Return the plan limited to one stage, or as it is for None."""
    known = tuple(name for name in STAGES if name == stage)
    return dataclasses.replace(plan, stages=known, verify_always=stage == "verify") if stage else plan


def source_folder(home: Home, plan: PreparePlan) -> Path | None:
    """Return the source folder; None if the data set was imported and its source is no longer there.

    Raises:
        MissingDataError: there is no source and no import; names the command.
        DataError: the record of the last import is damaged.
    """
    folder = home.dataset(plan.dataset)
    if plan.source is not None:
        return plan.source.expanduser().absolute()
    if plan.generate_demo:
        return folder / DEMO_SOURCE
    record = read_record(folder)
    if record is None:
        raise MissingDataError(
            f"data set {plan.dataset!r} has never been imported into {folder}; run: {prepare_command(plan.dataset)}"
        )
    return Path(record.source) if Path(record.source).is_dir() else None


def counted(interactions: Interactions, catalogue: Catalogue) -> str:
    """Return the size of a data set in words."""
    users, actions = len(interactions.users), len(interactions.items)
    return f"{users:,} users, {len(catalogue.item_ids):,} items, {actions:,} interactions"


def noted(record: ImportRecord) -> tuple[str, ...]:
    """Return what an import left out or mended, in words."""
    return tuple(f"{count:,} {reason}" for reason, count in record.notes.items())
