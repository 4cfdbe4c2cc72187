"""Amazon reviews 2018 (Ni et al., EMNLP 2019): ``<Category>_5.json.gz`` and ``meta_<Category>.json.gz``.

Both hold a JSON object a line. A review gives ``reviewerID``, ``asin`` and ``unixReviewTime``; an item's metadata
``title``, ``category`` (a list), ``brand`` and the addresses of its pictures.
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from odmt.data.events import Wanted, chosen_interactions, collect_events
from odmt.data.item_ids import check_item_id
from odmt.data.lines import Block
from odmt.data.parts import Parsed, PartReader
from odmt.data.sources.assembling import assemble, note, told_once
from odmt.data.sources.common import Form, Found, Pictures, Source, existing, only
from odmt.errors import MissingDataError

_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SIZE_MARK = re.compile(r"\._[A-Z0-9_,]+_(?=\.\w+$)")  # what turns an address into a thumbnail's: ._SS40_
_SCRIPT = "getTime"  # titles that hold a page's script instead of a title, as the data set's own page warns
_MOST_URLS = 3
_LATEST = 2**62


def find(folder: Path) -> Found | None:
    """Return the files of a category.

    Raises:
        MissingDataError: the reviews are missing.
        DataError: there are several categories.
    """
    meta = only(folder, "meta_*.json*")
    if meta is None:
        return None
    category = meta.name.removeprefix("meta_").partition(".json")[0]
    names = [f"{category}{core}.json{packed}" for core in ("_5", "") for packed in (".gz", "")]
    reviews = next((folder / name for name in names if (folder / name).is_file()), None)
    if reviews is None:
        raise MissingDataError(f"{folder / names[0]}: does not exist, but {meta.name} does; the two belong together")
    return Found("amazon-2018", {"reviews": reviews, "meta": meta}, Pictures(folder=existing(folder / "images")))


def read(found: Found, wanted: Wanted, work: Path) -> Source:
    """Read reviews, then the metadata of the items that are left.

    Raises:
        DataError: a file is cut off or damaged, an item id cannot name a file, or nothing is left.
    """
    notes: dict[str, int] = {}
    path = found.files["reviews"]
    reader = PartReader(path, work, _parse_reviews(path), "reading reviews")
    told = collect_events(reader.tables())
    events = told_once(reader, told, notes, "reviews told twice (same user, item and time)")
    core = chosen_interactions(events.user, events.item, wanted._replace(max_users=None))
    needed = {events.items[code] for code in np.unique(events.item[core]).tolist()}
    for item in needed:
        check_item_id(item, str(path))
    note(notes, "interactions outside the core", int((~core).sum()))
    titles, urls = _read_meta(found.files["meta"], work, needed, notes)
    interactions, catalogue = assemble(events.chosen(core), titles, wanted, notes, "items without metadata")
    return Source(interactions, catalogue, {item: urls[item] for item in catalogue.item_ids}, notes)


def _objects(path: Path, block: Block, damaged: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of every line; a line that is none is told."""
    import orjson

    for number, line in enumerate(block.content.split(b"\n"), start=block.first_line):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            damaged.append(f"{path}:{number}: is not JSON ({error})")
            continue
        if isinstance(value, dict):
            yield f"{path}:{number}", value
        else:
            damaged.append(f"{path}:{number}: is not a JSON object")


def _parse_reviews(path: Path) -> Any:
    import pyarrow as pa

    def parse(block: Block) -> Parsed:
        damaged: list[str] = []
        rows: list[tuple[str, str, int]] = []
        for place, review in _objects(path, block, damaged):
            user, item, time = (review.get(name) for name in ("reviewerID", "asin", "unixReviewTime"))
            if isinstance(user, str) and isinstance(item, str) and user and item and _is_time(time):
                rows.append((user, item, time))
            else:
                damaged.append(f"{place}: lacks reviewerID, asin or a whole number as unixReviewTime")
        users, items, times = ([row[column] for row in rows] for column in range(3))
        arrays = [pa.array(users, pa.string()), pa.array(items, pa.string()), pa.array(times, pa.int64())]
        return Parsed(pa.table(arrays, names=["user", "item", "time"]), damaged)

    return parse


def _is_time(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LATEST


def _read_meta(
    path: Path, work: Path, needed: set[str], notes: dict[str, int]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the texts and picture addresses of the needed items; of an item told twice the first counts."""
    titles: dict[str, str] = {}
    urls: dict[str, list[str]] = {}
    repeated = 0
    reader = PartReader(path, work, _parse_meta(path), "reading metadata")
    for table in reader.tables():
        for item, title, addresses in zip(*(table.column(name).to_pylist() for name in _META), strict=True):
            if item in titles:
                repeated += 1
            elif item in needed:
                titles[item], urls[item] = title, addresses
    note(notes, f"damaged lines of metadata, the first: {reader.first_damaged}", reader.damaged)
    note(notes, "items whose metadata is told again; the first counts", repeated)
    return titles, urls


_META = ("item", "title", "urls")


def _parse_meta(path: Path) -> Any:
    import pyarrow as pa

    def parse(block: Block) -> Parsed:
        damaged: list[str] = []
        rows: list[tuple[str, str, list[str]]] = []
        for place, meta in _objects(path, block, damaged):
            item = meta.get("asin")
            if isinstance(item, str) and item:
                rows.append((item, item_text(meta), picture_urls(meta)))
            else:
                damaged.append(f"{place}: lacks asin")
        items, titles, urls = ([row[column] for row in rows] for column in range(3))
        arrays = [pa.array(items, pa.string()), pa.array(titles, pa.string()), pa.array(urls, pa.list_(pa.string()))]
        return Parsed(pa.table(arrays, names=list(_META)), damaged)

    return parse


def item_text(meta: dict[str, Any]) -> str:
    """Return title, categories and brand in one line; what is no text, or a page's script, is left out."""
    category = meta.get("category")
    parts = [meta.get("title"), *(category if isinstance(category, list) else []), meta.get("brand")]
    texts = [part for part in parts if isinstance(part, str) and _SCRIPT not in part]
    return " ".join(" ".join(_TAG.sub(" ", html.unescape(text)).split()) for text in texts).strip()


def picture_urls(meta: dict[str, Any]) -> list[str]:
    """Return the addresses of an item's pictures, large ones first; of a thumbnail that of its full size."""
    found: list[str] = []
    for name in ("imageURLHighRes", "imageURL"):
        value = meta.get(name)
        for url in value if isinstance(value, list) else [value]:
            if isinstance(url, str) and url.strip():
                found.append(_SIZE_MARK.sub("", url.strip()))
    return list(dict.fromkeys(found))[:_MOST_URLS]


AMAZON_2018 = Form(
    "amazon-2018",
    "Amazon reviews 2018",
    "<Category>_5.json.gz and meta_<Category>.json.gz",
    find,
    read,
    core=(5, 5),
)
