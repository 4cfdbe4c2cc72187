"""What prepare would do, with sizes and times, without doing it and without loading an encoder.

Times are estimates: pictures by decoding a few of them now, features by the rate of an earlier extraction, else by the
encoder's arithmetic and a matrix product timed now.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odmt.commands import duration, size
from odmt.data.imported import ImportRecord, Imported, is_whole, read_import, read_record, stamps
from odmt.data.interactions import dataset_exists, read_catalogue, read_interactions
from odmt.data.lines import blocks
from odmt.data.sources.common import Found
from odmt.data.sources.forms import FORMS, find_source
from odmt.errors import DataError, MissingDataError, OdmtError
from odmt.experiment.images_stage import DOWNLOADS, needed_items
from odmt.experiment.import_stage import wanted_of_plan
from odmt.experiment.prepare_plan import DEMO_SOURCE, PreparePlan, counted, source_folder
from odmt.features.downloads import downloaded_files
from odmt.features.encoder_shapes import encoder_shape
from odmt.features.extract import pending_items, wanted_features
from odmt.features.images import IMAGES_FILE, open_images, read_entries
from odmt.features.picture_places import Located, Place, content_of, locate
from odmt.features.pictures import decode
from odmt.features.records import RecordFile
from odmt.features.store import EncoderConfig, checked_manifest, feature_store_path, modality_of
from odmt.features.workers import usable_cpus
from odmt.home import Home

_SAMPLE = 16
"""Pictures decoded to estimate the time of all."""
_READING = 60e6
"""Bytes of a source file read and parsed a second, on one slow core."""
_PACKED = 4
"""How much larger JSON is than its gzip."""
_GPU_FLOPS = 2e13
"""Operations a second of one GPU in half precision, a fifth of an A100's peak."""
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
        lines = round(num_bytes / max(1.0, _mean_line(path)))
        sentences.append(
            f"  {path.name}: {size(path.stat().st_size)}, about {lines:,} lines, {_about(num_bytes / _READING)}"
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


def _mean_line(path: Path) -> float:
    content = next(blocks(path), None)
    return len(content.content) / max(1, content.next_line - content.first_line) if content else 1.0


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
        seconds = _decode_seconds(list(due.places.values())) * len(due.places) / _workers(plan)
        sentences.append(f"would read {len(due.places):,} of {len(due.items):,} pictures{shown}, {_about(seconds)}")
    else:
        sentences.append(f"no picture to read: {len(due.items) - len(due.located.reasons):,} are there")
    lacking = list(due.located.reasons)
    addressed = sum(1 for item in lacking if due.imported.urls.get(item))
    if addressed and plan.download:
        per_second = plan.settings.download_connections
        sentences.append(
            f"would fetch up to {addressed:,} pictures, {_about(addressed / per_second)} at one a connection"
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


def _decode_seconds(places: Sequence[Place]) -> float:
    """Read and decode a few pictures now; return the seconds of one."""
    sample = places[:: max(1, len(places) // _SAMPLE)][:_SAMPLE]
    started = time.perf_counter()
    for place in sample:
        try:
            decode(content_of(place))
        except DataError:
            continue
    return (time.perf_counter() - started) / max(1, len(sample))


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
        manifest, pending = pending_items(path, digests)
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
    free = _free_bytes(path)
    lack = "" if num_bytes < free else f", and only {size(free)} are free"
    rate, why = _rate(home, path, manifest, shape.flops_per_item if shape else 2 * 86e6 * tokens)
    return (
        f"would extract {words} of {len(pending):,} of {len(digests):,} items: up to {size(num_bytes)}{known}{lack}, "
        f"{_about(len(pending) / rate)} ({why})"
    )


def _encoder_words(folder: Path, encoder: EncoderConfig) -> str:
    return f"{modality_of(encoder)} features of {encoder.model}"


def _rate(home: Home, path: Path, manifest: dict[str, Any] | None, flops: float) -> tuple[float, str]:
    """Return items a second, and where that is from."""
    others = sorted(home.features("*").parent.glob(f"*/{path.name}"))
    for other in [path, *others]:
        rate = _kept_rate(other)
        if rate:
            return rate, "as fast as before"
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if gpus:
        return gpus * _GPU_FLOPS / flops, f"assuming {_GPU_FLOPS / 1e12:.0f} TFLOP/s on each of {gpus} GPUs"
    return _cpu_flops() / flops, "from a matrix product timed now"


def _kept_rate(path: Path) -> float | None:
    try:
        with RecordFile(path) as store:
            rate: float | None = checked_manifest(store).get("items_per_second")
            return rate
    except OdmtError:
        return None


def _cpu_flops() -> float:
    """Time a matrix product; return operations a second."""
    left = np.ones((1024, 768), np.float32)
    right = np.ones((768, 1024), np.float32)
    left @ right
    started = time.perf_counter()
    rounds = 0
    while time.perf_counter() - started < 0.2:
        left @ right
        rounds += 1
    return rounds * 2 * 1024 * 768 * 1024 / (time.perf_counter() - started)


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
    return [
        f"would read back {size(num_bytes)} unless that was done since the last change, {_about(num_bytes / _READING_BACK)}"
    ]


def _free_bytes(path: Path) -> int:
    import shutil

    return shutil.disk_usage(next(parent for parent in path.parents if parent.exists())).free


def _workers(plan: PreparePlan) -> int:
    return plan.settings.workers or usable_cpus()


def _about(seconds: float) -> str:
    return f"about {duration(max(1.0, seconds))}"
