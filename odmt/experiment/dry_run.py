"""What prepare would do, with sizes and times, without doing it and without loading an encoder.

Times are estimates: pictures by decoding a few of them now, features by the rate of an earlier extraction, else by the
encoder's arithmetic and a matrix product timed now.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odmt.commands import size
from odmt.data.imported import Imported, ImportRecord, is_whole, read_import, read_record, stamps
from odmt.data.interactions import dataset_exists, read_catalogue, read_interactions
from odmt.data.sources.common import Found
from odmt.data.sources.forms import FORMS, find_source
from odmt.errors import MissingDataError
from odmt.experiment.estimates import about, decode_seconds, extraction_rate, free_bytes, mean_line
from odmt.experiment.images_stage import DOWNLOADS, needed_items
from odmt.experiment.import_stage import wanted_of_plan
from odmt.experiment.prepare_plan import DEMO_SOURCE, PreparePlan, counted, source_folder
from odmt.features.downloads import downloaded_files
from odmt.features.encoder_shapes import encoder_shape
from odmt.features.extract import pending_items, wanted_features
from odmt.features.images import IMAGES_FILE, open_images, read_entries
from odmt.features.picture_places import Located, Place, locate
from odmt.features.store import EncoderConfig, feature_store_path, modality_of
from odmt.features.workers import usable_cpus
from odmt.home import Home

_READING = 60e6
"""Bytes of a source file read and parsed a second, on one slow core."""
_PACKED = 4
"""How much larger JSON is than its gzip."""
_READING_BACK = 2e8


def forecast_stages(home: Home, plan: PreparePlan) -> Iterator[tuple[str, list[str]]]:
    """Yield each stage's name and what it would do, in sentences."""
    bodies: dict[str, Callable[[Home, PreparePlan], list[str]]] = {
        "import": _import, "images": _images, "features": _features, "verify": _verify
    }  # fmt: skip
    for stage in plan.stages:
        yield stage, bodies[stage](home, plan)


def _import(home: Home, plan: PreparePlan) -> list[str]:
    folder = home.dataset(plan.dataset)
    if plan.generate_demo and not (folder / DEMO_SOURCE).is_dir():
        return ["would generate the demo set: 2,000 users, 500 items, about 2 s"]
    source = source_folder(home, plan)
    record = read_record(folder)
    if source is None:
        return [f"up to date: {_imported_size(folder)}; the source {record.source if record else ''} is gone"]
    found = find_source(source, plan.settings.form)
    form = FORMS[found.form]
    named = f"{form.title} in {source}"
    if record is not None and is_whole(folder, record) and _unchanged(record, found, plan):
        return [f"up to date: {named}: {_imported_size(folder)}"]
    sentences = [f"would import {named}"]
    for path in found.files.values():
        num_bytes = path.stat().st_size * (_PACKED if path.suffix == ".gz" else 1)
        lines = round(num_bytes / max(1.0, mean_line(path)))
        sentences.append(
            f"  {path.name}: {size(path.stat().st_size)}, about {lines:,} lines, {about(num_bytes / _READING)}"
        )
    wanted = wanted_of_plan(form, plan)
    sentences.append(
        f"  of these users with {wanted.min_user} and items with {wanted.min_item} interactions or more"
        + (f", {wanted.max_users:,} users at most" if wanted.max_users else "")
    )
    return sentences


def _unchanged(record: ImportRecord, found: Found, plan: PreparePlan) -> bool:
    selection = list(wanted_of_plan(FORMS[found.form], plan))
    return (record.form, record.files, record.selection) == (found.form, stamps(found), selection)


def _imported_size(folder: Path) -> str:
    imported = read_import(folder)
    return counted(imported.interactions, imported.catalogue)


class _Due(NamedTuple):
    """Pictures that the images stage would read, and those it would look for in vain."""

    items: list[str]
    places: dict[str, Place]
    located: Located
    imported: Imported


def _images(home: Home, plan: PreparePlan) -> list[str]:
    due = _due_pictures(home, plan)
    if due is None:
        return ["would read and check a picture of every item that is left; how many is known after the import"]
    sentences = []
    if due.places:
        num_bytes = sum(place.num_bytes for place in due.places.values() if place.kind == "file")
        shown = f", {size(num_bytes)}" if num_bytes else ""
        seconds = decode_seconds(list(due.places.values())) * len(due.places) / _workers(plan)
        sentences.append(f"would read {len(due.places):,} of {len(due.items):,} pictures{shown}, {about(seconds)}")
    else:
        sentences.append(f"no picture to read: {len(due.items) - len(due.located.reasons):,} are there")
    lacking = list(due.located.reasons)
    addressed = sum(1 for item in lacking if due.imported.urls.get(item))
    if addressed and plan.download:
        per_second = plan.settings.download_connections
        sentences.append(
            f"would fetch up to {addressed:,} pictures, {about(addressed / per_second)} at one a connection"
        )
        lacking = [item for item in lacking if not due.imported.urls.get(item)]
    elif addressed:
        sentences.append(f"{addressed:,} more have an address: --download-images fetches them")
    if lacking:
        what = {"fail": "would stop", "drop": "would drop them", "blank": "would give them a grey picture"}
        example = f"such as {lacking[0]!r}, which {due.located.reasons[lacking[0]]}"
        sentences.append(f"{len(lacking):,} items without a picture, {example}: {what[plan.settings.missing_images]}")
    return sentences


def _due_pictures(home: Home, plan: PreparePlan) -> _Due | None:
    """Return what the images stage has to do; None as long as the source has not been imported."""
    folder = home.dataset(plan.dataset)
    record = read_record(folder)
    if record is None or not is_whole(folder, record) or not Path(record.source).is_dir():
        return None
    imported = read_import(folder)
    items = needed_items(imported)
    located = locate(record.pictures, items, downloaded_files(folder / DOWNLOADS))
    known = {}
    if (folder / IMAGES_FILE).exists():
        with open_images(folder) as store:
            known = read_entries(store)
    due = {
        item: place for item, place in located.places.items() if item not in known or known[item].stamp != place.stamp
    }
    return _Due(items, due, located, imported)


def _features(home: Home, plan: PreparePlan) -> list[str]:

    folder = home.dataset(plan.dataset)
    if not dataset_exists(folder):
        return [f"would extract {_encoder_words(folder, encoder)} of every item" for encoder in plan.encoders]
    catalogue = read_catalogue(folder)
    rows = read_interactions(folder, catalogue).occurring_rows
    return [_feature_sentence(home, plan, encoder, catalogue, rows) for encoder in plan.encoders]


def _feature_sentence(home: Home, plan: PreparePlan, encoder: EncoderConfig, catalogue: Any, rows: np.ndarray) -> str:
    folder = home.dataset(plan.dataset)
    words = _encoder_words(folder, encoder)
    try:
        path, digests = wanted_features(home, plan.dataset, encoder, catalogue, rows)
        pending = pending_items(path, digests)[1]
    except MissingDataError as error:
        if plan.tiny_encoders:
            return f"would make the encoder and extract {words} of {len(rows):,} items, about 10 s"
        return f"cannot extract {words} yet: {error}"
    if not pending:
        return f"up to date: {words} of {len(digests):,} items"
    shape = encoder_shape(encoder, folder)
    known = "" if shape else " (width 768 assumed: the model is not on this machine)"
    width, tokens = (shape.width, shape.max_tokens) if shape else (768, 50)
    num_bytes = len(pending) * tokens * width * 2
    free = free_bytes(path)
    lack = "" if num_bytes < free else f", and only {size(free)} are free"
    rate, why = extraction_rate(home, path, shape.flops_per_item if shape else 2 * 86e6 * tokens)
    return (
        f"would extract {words} of {len(pending):,} of {len(digests):,} items: up to {size(num_bytes)}{known}{lack}, "
        f"{about(len(pending) / rate)} ({why})"
    )


def _encoder_words(folder: Path, encoder: EncoderConfig) -> str:
    return f"{modality_of(encoder)} features of {encoder.model}"


def _verify(home: Home, plan: PreparePlan) -> list[str]:
    folder = home.dataset(plan.dataset)
    paths = [folder / IMAGES_FILE]
    for encoder in plan.encoders:
        try:
            paths.append(feature_store_path(home, plan.dataset, encoder))
        except MissingDataError:
            continue
    there = [path for path in paths if path.exists()]
    num_bytes = sum(path.stat().st_blocks * 512 for path in there)
    if len(there) < 1 + len(plan.encoders):
        return ["would read back all that the stages before it make"]
    seconds = about(num_bytes / _READING_BACK)
    return [f"would read back {size(num_bytes)}, {seconds}, unless that was done since the last change"]


def _workers(plan: PreparePlan) -> int:
    return plan.settings.workers or usable_cpus()
