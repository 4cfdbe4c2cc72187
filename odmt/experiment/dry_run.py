"""What prepare would do, with sizes and times, without doing it and without loading an encoder.

Times are estimates: pictures by decoding a few of them now, features by the rate of an earlier extraction, else by the
encoder's arithmetic and a matrix product timed now. Before the import the number of items is estimated from the size of
the source's list of them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from odmt.commands import size
from odmt.config import TextEncoderConfig
from odmt.data.imported import Imported, read_import, read_record, read_whole
from odmt.data.interactions import read_catalogue, read_interactions
from odmt.data.sources.common import Found
from odmt.data.sources.forms import FORMS, find_source
from odmt.errors import FeatureStoreError, MissingDataError
from odmt.experiment.dry_run_images import due_pictures, images_after_import, images_before_import
from odmt.experiment.estimates import about, extraction_rate, free_bytes, mean_line
from odmt.experiment.images_stage import needed_items
from odmt.experiment.import_stage import is_current, wanted_of_plan
from odmt.experiment.prepare_plan import DEMO_SOURCE, PreparePlan, counted, source_folder
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT
from odmt.features.encoder_shapes import encoder_shape
from odmt.features.extract import pending_items, wanted_features
from odmt.features.images import IMAGES_FILE
from odmt.features.records import RecordFile
from odmt.features.store import EncoderConfig, feature_store_path, held_digests, modality_of
from odmt.home import Home

_READING = 60e6
"""Bytes of a source file read and parsed a second, on one slow core."""
_PACKED = 4
"""How much larger JSON is than its gzip."""
_READING_BACK = 2e8
_DEMO_ITEMS = 500
_USUAL_WIDTH, _USUAL_TOKENS, _USUAL_PARAMETERS = 768, 50, 86e6
"""Of an encoder that is not on this machine: those of BERT-base and ViT-B/32."""


class _Expected(NamedTuple):
    """How many items need pictures and features.

    Attributes:
        number: of them.
        exact: False before the import: then it is an upper bound, estimated.
    """

    number: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.number:,}" if self.exact else f"at most about {self.number:,}"


def forecast_stages(home: Home, plan: PreparePlan) -> Iterator[tuple[str, list[str]]]:
    """Yield each stage's name and what it would do, in sentences."""
    bodies: dict[str, Callable[[Home, PreparePlan], list[str]]] = {
        "import": _import, "images": _images, "features": _features, "verify": _verify
    }  # fmt: skip
    for stage in plan.stages:
        yield stage, bodies[stage](home, plan)


def _import(home: Home, plan: PreparePlan) -> list[str]:
    folder = home.dataset(plan.dataset)
    found, former = _found(home, plan), _former(folder)
    if found is None and plan.generate_demo:
        return [f"would generate the demo set: 2,000 users, {_DEMO_ITEMS} items, about 2 s"]
    if found is None:
        imported = former or read_import(folder)
        return [f"up to date: {_size(imported)}; the source {imported.record.source} is gone"]
    form = FORMS[found.form]
    named = f"{form.title} in {next(iter(found.files.values())).parent}"
    if former is not None and is_current(former, found, plan):
        return [f"up to date: {named}: {_size(former)}"]
    sentences = [f"would import {named}"]
    for path in found.files.values():
        seconds = _content_bytes(path) / _READING
        sentences.append(f"  {path.name}: {size(path.stat().st_size)}, about {_lines(path):,} lines, {about(seconds)}")
    wanted = wanted_of_plan(form, plan)
    if not wanted.takes_all:
        sentences.append(
            f"  of these users with {wanted.min_user} and items with {wanted.min_item} interactions or more"
            + (f", {wanted.max_users:,} users at most" if wanted.max_users else "")
        )
    return sentences


def _found(home: Home, plan: PreparePlan) -> Found | None:
    """Return the source's files; None if the source is gone, or the demo set has not been generated."""
    if plan.generate_demo and not (home.dataset(plan.dataset) / DEMO_SOURCE).is_dir():
        return None
    source = source_folder(home, plan)
    return None if source is None else find_source(source, plan.settings.form)


def _former(folder: Path) -> Imported | None:
    record = read_record(folder)
    return None if record is None else read_whole(folder, record)


def _size(imported: Imported) -> str:
    return counted(imported.interactions, imported.catalogue)


def _content_bytes(path: Path) -> int:
    return path.stat().st_size * (_PACKED if path.suffix == ".gz" else 1)


def _lines(path: Path) -> int:
    return round(_content_bytes(path) / max(1.0, mean_line(path)))


def _expected(home: Home, plan: PreparePlan) -> _Expected:
    folder = home.dataset(plan.dataset)
    found, former = _found(home, plan), _former(folder)
    if former is not None and (found is None or is_current(former, found, plan)):
        return _Expected(len(needed_items(former)), True)
    if found is None:
        if not plan.generate_demo:
            read_import(folder)  # says what is wrong with it
        return _Expected(_DEMO_ITEMS, False)
    lists_items = next(found.files[part] for part in ("text", "articles", "titles", "meta") if part in found.files)
    return _Expected(_lines(lists_items), False)


def _images(home: Home, plan: PreparePlan) -> list[str]:
    expected = _expected(home, plan)
    if expected.exact:
        return images_after_import(due_pictures(home, plan), plan)
    return images_before_import(_found(home, plan), str(expected), expected.number, plan)


def _features(home: Home, plan: PreparePlan) -> list[str]:
    return [_feature_sentence(home, plan, encoder) for encoder in plan.encoders]


def _feature_sentence(home: Home, plan: PreparePlan, encoder: EncoderConfig) -> str:
    folder = home.dataset(plan.dataset)
    words = f"{modality_of(encoder)} features of {encoder.model}"
    expected = _expected(home, plan)
    try:
        path = feature_store_path(home, plan.dataset, encoder)
    except MissingDataError as error:
        if plan.tiny_encoders and encoder.model in (TINY_TEXT.model, TINY_IMAGE.model):
            return f"would make a tiny encoder and extract {words} of {expected} items, about 10 s"
        return f"cannot extract {words}: {error}"
    try:
        pending = _pending(home, plan, encoder) if expected.exact else None
    except FeatureStoreError as error:
        return f"cannot extract {words}: {error}"
    if pending == 0:
        return f"up to date: {words} of {expected} items"
    there = 0 if pending is not None else _held(path)
    pending = max(0, expected.number - there) if pending is None else pending
    shape = encoder_shape(encoder, folder)
    known = "" if shape else f" (width {_USUAL_WIDTH} assumed: the model is not on this machine)"
    usual = encoder.max_tokens if isinstance(encoder, TextEncoderConfig) else _USUAL_TOKENS
    width, tokens = (shape.width, shape.max_tokens) if shape else (_USUAL_WIDTH, usual)
    flops = shape.flops_per_item if shape else 2 * _USUAL_PARAMETERS * tokens
    num_bytes, free = pending * tokens * width * 2, free_bytes(path)
    lack = "" if num_bytes < free else f", and only {size(free)} are free"
    rate, why = extraction_rate(home, path, flops)
    many = f"{pending:,} of {expected} items" if expected.exact else f"{expected} items"
    less = f", less what of the {there:,} there is still good" if there else ""
    cost = f"up to {size(num_bytes)}{known}{lack}, {about(pending / rate)} ({why})"
    return f"would extract {words} of {many}{less}: {cost}"


def _pending(home: Home, plan: PreparePlan, encoder: EncoderConfig) -> int | None:
    """Return how many items lack features; None while the images stage has not run to its end.

    Raises:
        FeatureStoreError: the store can not be filled.
    """
    folder = home.dataset(plan.dataset)
    try:
        catalogue = read_catalogue(folder)
        rows = read_interactions(folder, catalogue).occurring_rows
        wanted = wanted_features(home, plan.dataset, encoder, catalogue, rows)
    except (MissingDataError, FeatureStoreError):
        return None
    return len(pending_items(*wanted, plan.settings.precision)[1])


def _held(path: Path) -> int:
    """Return how many items a store holds features of."""
    try:
        with RecordFile(path) as store:
            return len(held_digests(store))
    except FeatureStoreError:
        return 0


def _verify(home: Home, plan: PreparePlan) -> list[str]:
    paths = [home.dataset(plan.dataset) / IMAGES_FILE]
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
