"""A large source file read once: what each block gave is kept as a Parquet part, so that a stopped import goes on.

A part holds the rows of one block and, in its metadata, where the block ended and what could not be read. Parts belong
to the file's size and time of change; a changed file is read anew.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from odmt.commands import meter
from odmt.data.lines import Block, blocks
from odmt.errors import DataError
from odmt.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

_PART = b"odmt.part"
_TOLERATED = 10  # damaged lines that a file may have however short it is
_TOLERATED_SHARE = 0.001


class Parsed(NamedTuple):
    """What a block gave.

    Attributes:
        table: its rows.
        damaged: ``file:line: what is wrong`` of every line that means nothing.
    """

    table: "pa.Table"
    damaged: list[str]


class _Place(NamedTuple):
    """Where a block ended, and which of its lines meant nothing."""

    end: int
    next_line: int
    damaged: int
    first_damaged: str


class PartReader:
    """Reads one file in parts; afterwards ``damaged`` says what was passed over."""

    def __init__(self, path: Path, folder: Path, parse: Callable[[Block], Parsed], label: str) -> None:
        """Prepare to read.

        Args:
            path: the source file.
            folder: where parts are kept; made if missing.
            parse: turns a block into rows.
            label: word for the progress bar.
        """
        self.damaged = 0
        self.first_damaged = ""
        stat = path.stat()
        self._path, self._parse, self._label = path, parse, label
        self._folder = folder / f"{path.name}-{stat.st_size}-{stat.st_mtime_ns}"

    def tables(self) -> Iterator["pa.Table"]:
        """Yield the rows of all parts in the order of the file, those of an earlier, stopped reading first.

        Raises:
            DataError: the file is cut off, empty, or too many of its lines mean nothing.
        """
        kept = 0
        end, line, rows = 0, 1, 0
        paths = sorted(self._folder.glob("part-*.parquet"))
        for path in paths:
            part = _read_part(path) if path == self._part(kept) else None
            if part is None:  # a disk lost it, or the one before; from here on the file is read again
                for later in paths[kept:]:
                    later.unlink()
                break
            table, place = part
            kept += 1
            end, line, rows = place.end, place.next_line, rows + table.num_rows
            self._count(place)
            yield table
        with meter(self._label, self._path.stat().st_size, in_bytes=True) as tell:
            for number, block in enumerate(blocks(self._path, end, line, tell), start=kept):
                table, damaged = self._parse(block)
                place = _Place(block.end, block.next_line, len(damaged), damaged[0] if damaged else "")
                self._count(place)
                _write_part(self._part(number), table, place)
                rows += table.num_rows
                yield table
        if not rows:
            raise DataError(f"{self.first_damaged or self._path}: the file holds no line that means anything")

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.parquet"

    def _count(self, place: _Place) -> None:
        self.damaged += place.damaged
        self.first_damaged = self.first_damaged or place.first_damaged
        lines = place.next_line - 1
        if self.damaged > max(_TOLERATED, _TOLERATED_SHARE * lines):
            raise DataError(
                f"{self.first_damaged}; {self.damaged:,} of the first {lines:,} lines are like that: the file is "
                "damaged, or not what its name says; download it again"
            )


def _read_part(path: Path) -> tuple["pa.Table", _Place] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        return table, _Place(*json.loads(table.schema.metadata[_PART]))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


def _write_part(path: Path, table: "pa.Table", place: _Place) -> None:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_PART: json.dumps(place).encode()}), buffer)
    write_atomically(path, buffer.getvalue())
