"""The last stage: everything is read back as a study would, and looked at once.

Pictures are decoded, digests and checksums compared, features checked for numbers that are none. What was read back is
remembered with the state of the files, so that a second run need not do it again; ``--stage verify`` does in any case.
"""

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odmt.commands import progress, size
from odmt.data.interactions import (
    Catalogue,
    Interactions,
    dataset_digest,
    prepare_command,
    read_catalogue,
    read_interactions,
)
from odmt.errors import DataError, FeatureStoreError
from odmt.experiment.prepare_plan import PreparePlan, StageReport
from odmt.features.contact_sheet import Card, contact_sheet
from odmt.features.images import (
    BLANK_DIGEST,
    IMAGES_FILE,
    digest_of,
    encoded_pictures,
    image_digests,
    open_images,
)
from odmt.features.pictures import decode, holds_floats
from odmt.features.shards import load_shard, plan_shards
from odmt.features.store import EncoderConfig, feature_store_path, modality_of, open_features
from odmt.features.workers import ordered_map, worker_count
from odmt.files import write_atomically
from odmt.home import Home

VERIFIED_FILE = "verified.json"
PREVIEW_FILE = "preview.png"
PREVIEW_ITEMS = 40
_PREVIEW_SEED = 1


class Line(NamedTuple):
    """A line of the report: what was looked at, and what was found."""

    what: str
    found: str


def run_verify(home: Home, plan: PreparePlan) -> StageReport:
    """Read everything back, unless that was done and nothing has changed since.

    Raises:
        MissingDataError: something has not been prepared.
        FeatureStoreError: a picture or a feature is damaged, stale, or not a number.
    """
    folder = home.dataset(plan.dataset)
    catalogue = read_catalogue(folder)
    interactions = read_interactions(folder, catalogue)
    paths = [folder / IMAGES_FILE, *(feature_store_path(home, plan.dataset, encoder) for encoder in plan.encoders)]
    state = {path.name: _stamp(path) for path in paths} | {"data": dataset_digest(folder)}
    former = _former(folder)
    known = former.get("state") == state and not plan.verify_always
    if known:
        lines = [Line(*line) for line in former["lines"]]
        summary = f"unchanged since it was read back on {former['date']}"
    else:
        lines = [*_data_lines(folder, interactions, catalogue), *_picture_lines(home, plan, catalogue, interactions)]
        for encoder in plan.encoders:
            lines += _feature_lines(home, plan, encoder, catalogue, interactions.occurring_rows)
        date = datetime.date.today().isoformat()
        kept = {"state": state, "date": date, "lines": lines}
        write_atomically(folder / VERIFIED_FILE, json.dumps(kept, ensure_ascii=False).encode())
        summary = "everything reads back"
    notes = tuple(f"{line.what:<10}{line.found}" for line in lines)
    if plan.preview:
        notes = (*notes, f"preview   {_preview(folder, catalogue, interactions)}")
    return StageReport("verify", False, summary, notes=notes)


def _former(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / VERIFIED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stamp(path: Path) -> list[int]:
    if not path.exists():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _data_lines(folder: Path, interactions: Interactions, catalogue: Catalogue) -> list[Line]:
    lengths = np.diff(interactions.offsets)
    titles = np.array([len(title) for title in catalogue.titles])
    return [
        Line("data", f"digest {dataset_digest(folder)}"),
        Line(
            "users",
            f"{len(interactions.users):,} with {len(interactions.items):,} interactions: "
            f"{lengths.min()} to {lengths.max()} a user, mean {lengths.mean():.1f}, median {np.median(lengths):.0f}",
        ),
        Line(
            "items",
            f"{len(catalogue.item_ids):,}, of them {len(interactions.occurring_rows):,} met; titles of "
            f"{titles.mean():.0f} letters on average, {int((titles == 0).sum()):,} empty",
        ),
    ]


class _Seen(NamedTuple):
    """What decoding a picture told."""

    kind: str
    width: int
    height: int
    num_bytes: int
    problem: str


class _Look(NamedTuple):
    """A picture to be decoded."""

    item: str
    content: bytes
    digest: bytes


def _picture_lines(home: Home, plan: PreparePlan, catalogue: Catalogue, interactions: Interactions) -> list[Line]:
    folder = home.dataset(plan.dataset)
    digests = image_digests(folder)
    items = sorted((catalogue.item_ids[row] for row in interactions.occurring_rows), key=str.encode)
    lacking = [item for item in items if item not in digests]
    if lacking:
        raise FeatureStoreError(
            f"{folder / IMAGES_FILE}: holds no picture of {len(lacking)} items, such as {lacking[0]!r}; run: "
            f"{prepare_command(plan.dataset)}"
        )
    blank = sum(digests[item] == BLANK_DIGEST for item in items)
    own = [item for item in items if digests[item] != BLANK_DIGEST]
    seen = list(_seen(folder, own, digests, worker_count(plan.settings.workers, len(own))))
    broken = [(item, look.problem) for item, look in zip(own, seen, strict=True) if look.problem]
    if broken:
        item, problem = broken[0]
        raise FeatureStoreError(
            f"{folder / IMAGES_FILE}: picture of item {item!r} {problem}; {len(broken)} of {len(items)} pictures are "
            f"like that; delete the file and run: {prepare_command(plan.dataset)}"
        )
    kinds = {kind: sum(look.kind == kind for look in seen) for kind in sorted({look.kind for look in seen})}
    sides = np.array([(look.width, look.height) for look in seen])
    small = int((sides.max(axis=1) < 32).sum()) if len(sides) else 0
    return [
        Line(
            "pictures",
            f"{len(items):,}: {', '.join(f'{count:,} {kind}' for kind, count in kinds.items())}"
            f"{f', {blank:,} grey ones in place of missing' if blank else ''}; "
            f"{size(sum(look.num_bytes for look in seen))}; all decode, digests agree",
        ),
        Line(
            "",
            f"{sides[:, 0].min()} x {sides[:, 1].min()} to {sides[:, 0].max()} x {sides[:, 1].max()} pixels, median "
            f"{np.median(sides[:, 0]):.0f} x {np.median(sides[:, 1]):.0f}; {small:,} smaller than 32",
        ),
    ]


def _seen(folder: Path, items: list[str], digests: Mapping[str, bytes], workers: int) -> Iterable[_Seen]:
    with open_images(folder) as store, store.view() as view:
        looks = (_Look(item, encoded_pictures(view, store.path, [item], digests)[0], digests[item]) for item in items)
        yield from progress(ordered_map(_look_at, looks, workers), len(items), "decoding pictures")


def _look_at(look: _Look) -> _Seen:
    """Decode one picture; runs in a worker."""
    try:
        image = decode(look.content)
    except DataError as error:
        return _Seen("", 0, 0, 0, str(error))
    problem = "" if digest_of(look.content) == look.digest else "is not the one that was stored"
    kind = "float pixels" if holds_floats(look.content) else _kind(look.content)
    return _Seen(kind, image.width, image.height, len(look.content), problem)


def _kind(content: bytes) -> str:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return str(image.format)


def _feature_lines(
    home: Home, plan: PreparePlan, encoder: EncoderConfig, catalogue: Catalogue, rows: np.ndarray
) -> list[Line]:
    path = feature_store_path(home, plan.dataset, encoder)
    counts: list[np.ndarray] = []
    norms: list[np.ndarray] = []
    width = 0
    shards = plan_shards(home, plan.dataset, encoder, catalogue, rows)
    for shard in progress(shards, len(shards), f"reading {modality_of(encoder)} features"):
        features = load_shard(shard).features
        if not np.isfinite(features.tokens).all():
            raise FeatureStoreError(f"{path}: holds NaN or infinite features; delete it and prepare again")
        counts.append(np.diff(features.offsets))
        norms.append(np.linalg.norm(features.tokens[features.offsets[:-1]].astype(np.float32), axis=1))
        width = features.tokens.shape[1]
    tokens, norm = np.concatenate(counts), np.concatenate(norms)
    with open_features(path) as store:
        manifest = store.manifest()
    return [
        Line(
            modality_of(encoder),
            f"{encoder.model}: {len(tokens):,} items x {tokens.mean():.1f} tokens ({tokens.min()} to {tokens.max()}) x "
            f"{width}; {size(path.stat().st_blocks * 512)}, made in {' and '.join(manifest['precisions'])}",
        ),
        Line("", f"all finite, checksums agree; length of summary tokens {norm.mean():.2f} +- {norm.std():.2f}"),
    ]


def _preview(folder: Path, catalogue: Catalogue, interactions: Interactions) -> Path:
    """Draw some items, the same ones for the same data set."""
    rows = interactions.occurring_rows
    chosen = np.random.default_rng(_PREVIEW_SEED).choice(rows, min(PREVIEW_ITEMS, len(rows)), replace=False)
    items = [catalogue.item_ids[row] for row in sorted(chosen.tolist())]
    titles = dict(zip(*catalogue, strict=True))
    digests = image_digests(folder)
    with open_images(folder) as store, store.view() as view:
        contents = encoded_pictures(view, store.path, items, digests)
    cards = [
        Card(item, titles[item], content, digests[item] == BLANK_DIGEST)
        for item, content in zip(items, contents, strict=True)
    ]
    path = folder / PREVIEW_FILE
    write_atomically(path, contact_sheet(cards))
    return path
