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
_PATTERNS = (r"\S+", r"\S+", r"\d+(\.\d+)?")


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
        events = _read_sequences(pairs)
    unknown = f"items without a line in {found.files['titles'].name}"
    return Source(*assemble(events, titles, wanted, notes, unknown), None, notes)


def _read_titles(path: Path, notes: dict[str, int]) -> dict[str, str]:
    """Read ``item,title``; a title in quotes is unquoted, in others all later commas belong to it."""
    titles: dict[str, str] = {}
    repeated = 0
    for number, (place, line) in enumerate(text_lines(path)):
        item, comma, title = line.partition(",")
        item, title = item.strip(), title.strip()
        if number == 0 and item.lower() in _NAMES[1]:
            continue
        if not comma:
            raise DataError(f"{place}: has no comma; expected: item,title")
        check_item_id(item, place)
        if len(title) >= 2 and title[0] == title[-1] == '"':
            title = title[1:-1].replace('""', '"').strip()
        repeated += item in titles
        titles.setdefault(item, title)
    if not titles:
        raise DataError(f"{path}: is empty; expected a line for every item: item,title")
    note(notes, f"further lines of items in {path.name}; the first counts", repeated)
    return titles


def _read_sequences(path: Path) -> Events:
    """Read ``user TAB item item ...``; an item's place in the line stands for its time."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    rows: list[tuple[int, int, int]] = []
    for place, line in text_lines(path):
        user, tab, sequence = line.partition("\t")
        if not tab or not user.strip():
            raise DataError(f"{place}: has no TAB or no user before it; expected: user TAB item item ...")
        code = users.setdefault(user.strip(), len(users))
        rows += [(code, items.setdefault(item, len(items)), time) for time, item in enumerate(sequence.split())]
    if not rows:
        raise DataError(f"{path}: is empty; expected a line for every user: user TAB item item ...")
    columns = np.array(rows, dtype=np.int64).T
    return Events(list(users), list(items), columns[0].astype(np.int32), columns[1].astype(np.int32), columns[2])


class TimedPairs:
    """Parses blocks of ``<tag>_pairs.csv`` into user, item and time."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            DataError: a column is missing.
        """
        self._path = path
        self._names = header_of(path)
        self._columns = list(self._needed())

    def _needed(self) -> Iterator[str]:
        for alternatives in _NAMES:
            name = next((name for name in self._names if name.lower() in alternatives), None)
            if name is None:
                shown = ", ".join(self._names) or "none"
                raise DataError(f"{self._path}:1: has no column {' or '.join(alternatives)}; its columns are {shown}")
            yield name

    def __call__(self, block: Block) -> Parsed:
        """Parse one block."""
        import pyarrow as pa
        import pyarrow.compute as pc

        damaged: list[str] = []
        patterns = dict(zip(self._columns, _PATTERNS, strict=True))
        table = block_rows(self._path, block, self._names, patterns, damaged)
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
