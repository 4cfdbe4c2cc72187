"""MicroLens (Ni et al., arXiv:2309.15379), the public relative of the paper's Stream.

``<tag>_pairs.csv`` has the columns user, item and timestamp, or ``<tag>_pairs.tsv`` a line ``user TAB item item ...`` a
user; ``<tag>_title*.csv`` has ``item,title``; covers lie in ``<tag>_covers/<item>.jpg``.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from odmt.data.events import Events, Wanted, collect_events
from odmt.data.item_ids import check_item_id
from odmt.data.lines import Block, text_lines
from odmt.data.parts import Parsed, PartReader
from odmt.data.sources.assembling import assemble, note, told_once
from odmt.data.sources.common import Form, Found, Pictures, Source, existing, only
from odmt.data.sources.tables import block_rows, header_of
from odmt.errors import DataError, MissingDataError

_NAMES = (("user", "userid", "user_id"), ("item", "videoid", "video_id", "item_id"), ("timestamp", "time"))
_PATTERNS = (r"\S+", r"\S+", r"\d{1,15}(\.\d{1,15})?")  # milliseconds since 1970 have 13 digits


def find(folder: Path) -> Found | None:
    """Return the files of a MicroLens folder; of both kinds of pairs the one with times.

    Raises:
        MissingDataError: the titles are missing.
        DataError: there are several of a kind.
    """
    pairs = only(folder, "*_pairs.csv") or only(folder, "*_pairs.tsv", without="_ks_")
    if pairs is None:
        return None
    titles = only(folder, "*_title*.csv", without="_ks_")
    if titles is None:
        raise MissingDataError(
            f"{folder}: holds {pairs.name} but no file named <tag>_title*.csv; the two belong together"
        )
    tag = pairs.name.rpartition("_pairs.")[0]
    covers = existing(folder / f"{tag}_covers") or existing(folder / "covers") or existing(folder / "images")
    return Found("microlens", {"pairs": pairs, "titles": titles}, Pictures(folder=covers))


def read(found: Found, wanted: Wanted, work: Path) -> Source:
    """Read pairs and titles; items without a line in the titles are left out.

    Raises:
        DataError: a file is malformed; the sentence names file and line.
    """
    notes: dict[str, int] = {}
    titles = _read_titles(found.files["titles"], notes)
    pairs = found.files["pairs"]
    if pairs.suffix == ".csv":
        reader = PartReader(pairs, work, TimedPairs(pairs), "reading pairs")
        told = collect_events(reader.tables())
        events = told_once(reader, told, notes, "pairs told twice (same user, item and time)")
    else:
        events = _read_sequences(pairs, notes)
    unknown = f"items without a line in {found.files['titles'].name}"
    return Source(*assemble(events, titles, wanted, notes, unknown), None, notes)


def _read_titles(path: Path, notes: dict[str, int]) -> dict[str, str]:
    """Read ``item,title``; a title in quotes is unquoted, in others all later commas belong to it."""
    titles: dict[str, str] = {}
    repeated = 0
    for number, (place, line) in enumerate(text_lines(path)):
        item, comma, title = line.partition(",")
        item, title = _unquoted(item), _unquoted(title)
        if number == 0 and item.lower() in _NAMES[1]:
            continue
        if not comma:
            raise DataError(f"{place}: has no comma; expected: item,title")
        check_item_id(item, place)
        repeated += item in titles
        titles.setdefault(item, title)
    if not titles:
        raise DataError(f"{path}: is empty; expected a line for every item: item,title")
    note(notes, f"further lines of items in {path.name}; the first counts", repeated)
    return titles


def _unquoted(field: str) -> str:
    field = field.strip()
    if len(field) >= 2 and field[0] == field[-1] == '"':
        return field[1:-1].replace('""', '"').strip()
    return field


def _read_sequences(path: Path, notes: dict[str, int]) -> Events:
    """Read ``user TAB item item ...``; an item's place in the line stands for its time."""
    lines: dict[str, list[str]] = {}
    repeated = 0
    for place, line in text_lines(path):
        user, tab, sequence = line.partition("\t")
        user, items = user.strip(), sequence.split()
        if not tab or not user:
            raise DataError(f"{place}: has no TAB or no user before it; expected: user TAB item item ...")
        if not items:
            raise DataError(f"{place}: user {user!r} has no items after the TAB")
        repeated += user in lines
        lines[user] = items
    if not lines:
        raise DataError(f"{path}: is empty; expected a line for every user: user TAB item item ...")
    note(notes, "lines of a user who stands on a later line too; the last one counts", repeated)
    names = sorted({item for items in lines.values() for item in items})
    code_of = {name: code for code, name in enumerate(names)}
    lengths = [len(items) for items in lines.values()]
    users = np.repeat(np.arange(len(lines), dtype=np.int32), lengths)
    codes = np.array([code_of[name] for items in lines.values() for name in items], dtype=np.int32)
    return Events(list(lines), names, users, codes, np.concatenate([np.arange(length) for length in lengths]))


class TimedPairs:
    """Parses blocks of ``<tag>_pairs.csv`` into user, item and time."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            DataError: a column is missing.
        """
        self._path = path
        self._header = header_of(path)
        self._columns = list(self._needed())

    def _needed(self) -> Iterator[str]:
        for alternatives in _NAMES:
            name = next((name for name in self._header.names if name.lower() in alternatives), None)
            if name is None:
                place, shown = f"{self._path}:{self._header.line}", ", ".join(self._header.names)
                raise DataError(f"{place}: has no column {' or '.join(alternatives)}; its columns are {shown}")
            yield name

    def __call__(self, block: Block) -> Parsed:
        """Parse one block."""
        import pyarrow as pa
        import pyarrow.compute as pc

        damaged: list[str] = []
        patterns = dict(zip(self._columns, _PATTERNS, strict=True))
        table = block_rows(self._path, block, self._header, patterns, damaged)
        user, item, time = (table.column(name) for name in self._columns)
        times = pc.cast(pc.floor(pc.cast(time, pa.float64())), pa.int64())
        return Parsed(pa.table([user, item, times], names=["user", "item", "time"]), damaged)


MICROLENS = Form(
    "microlens",
    "MicroLens",
    "<tag>_pairs.csv or <tag>_pairs.tsv, <tag>_title*.csv, <tag>_covers/",
    find,
    read,
    core=(5, 1),
)
