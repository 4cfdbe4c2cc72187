"""Comma-separated files: small ones row by row, large ones in blocks that Arrow parses."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from odmt.data.lines import Block, blocks
from odmt.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def header_of(path: Path) -> list[str]:
    """Return the names in a file's first line.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    first = next(blocks(path), None)
    line = first.content.partition(b"\n")[0] if first else b""
    try:
        return [name.strip() for name in next(csv.reader([line.decode()]), [])]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:1: is not UTF-8 text") from error


def check_columns(path: Path, found: Sequence[str], needed: Sequence[str]) -> None:
    """Check that a file has the columns it should.

    Raises:
        DataError: it lacks some; names them and what is there.
    """
    lacking = [name for name in needed if name not in found]
    if lacking:
        raise DataError(f"{path}:1: has no column {', '.join(lacking)}; its columns are {', '.join(found) or 'none'}")


def rows_of(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``file:line`` and the row of a small file with a header.

    Raises:
        DataError: the file lacks a column, a row has another number of fields, or it is not UTF-8.
    """
    with _text(path) as file:
        reader = csv.reader(file)
        try:
            names = [name.strip() for name in next(reader, [])]
            check_columns(path, names, needed)
            for row in reader:
                place = f"{path}:{reader.line_num}"
                if not row:
                    continue
                if len(row) != len(names):
                    raise DataError(f"{place}: has {len(row)} fields; expected {len(names)}: {', '.join(names)}")
                yield place, dict(zip(names, row, strict=True))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{reader.line_num + 1}: is not UTF-8 text") from error
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: is not CSV ({error})") from error


def block_rows(
    path: Path, block: Block, names: Sequence[str], patterns: Mapping[str, str], damaged: list[str]
) -> "pa.Table":
    """Parse a block of a large file whose rows are single lines.

    Args:
        path: for the sentences.
        block: whole lines; the first of the file is its header.
        names: the header.
        patterns: the needed columns, and what each field of theirs must match.
        damaged: gets a sentence for every line that does not; such lines are passed over.

    Returns:
        The needed columns, as text.

    Raises:
        DataError: a line is not UTF-8 text; names it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    content = block.content.partition(b"\n")[2] if block.first_line == 1 else block.content
    if not content.strip():
        return pa.table({name: pa.array([], pa.string()) for name in patterns})
    uneven = False

    def pass_over(row: object) -> str:
        nonlocal uneven
        uneven = True
        return "skip"

    try:
        table = arrow_csv.read_csv(
            io.BytesIO(content),
            read_options=arrow_csv.ReadOptions(column_names=list(names), block_size=len(content) + 1),
            parse_options=arrow_csv.ParseOptions(invalid_row_handler=pass_over),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=list(patterns)
            ),
        )
    except pa.ArrowInvalid as error:
        damaged += _unusable_lines(path, block, names, patterns)
        raise DataError(f"{damaged[0] if damaged else path}: is not CSV ({error})") from error
    usable = pa.chunked_array([pa.array([True] * table.num_rows)])
    for name, pattern in patterns.items():
        usable = pc.and_(usable, pc.match_substring_regex(table.column(name), f"^(?:{pattern})$"))
    if uneven or not pc.all(usable).as_py():
        damaged += _unusable_lines(path, block, names, patterns)
        table = table.filter(usable)
    return table


def _unusable_lines(path: Path, block: Block, names: Sequence[str], patterns: Mapping[str, str]) -> list[str]:
    """Look at every line of a block again, slowly, to say which ones mean nothing."""
    found = []
    for number, line in enumerate(block.content.split(b"\n"), start=block.first_line):
        place = f"{path}:{number}"
        if number == 1 or not line.strip():
            continue
        try:
            fields = next(csv.reader([line.decode().rstrip("\r")]))
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: is not UTF-8 text (byte 0x{line[error.start]:02x})") from error
        except csv.Error as error:
            found.append(f"{place}: is not CSV ({error})")
            continue
        if len(fields) != len(names):
            found.append(f"{place}: has {len(fields)} fields; expected {len(names)}: {', '.join(names)}")
            continue
        row = dict(zip(names, fields, strict=True))
        wrong = next((name for name, pattern in patterns.items() if not re.fullmatch(pattern, row[name])), None)
        if wrong is not None:
            found.append(f"{place}: {wrong} is {row[wrong]!r}")
    return found


def _text(path: Path) -> io.TextIOWrapper:
    try:
        return open(path, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
