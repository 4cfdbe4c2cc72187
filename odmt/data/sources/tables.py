"""Comma-separated files: small ones row by row, large ones in blocks that Arrow parses.

Rows of a large file are single lines. Arrow would take a stray quote for the beginning of a field that spans lines; so
a block of whose lines it might make other rows, or does not understand one, is read line by line.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from odmt.data.lines import Block, blocks
from odmt.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_BLANKS = " \t\r\v\f"  # Arrow leaves others where they are


class Header(NamedTuple):
    """The names of a file's columns, and the number of the line that holds them: the first that is not blank."""

    names: list[str]
    line: int


def header_of(path: Path) -> Header:
    """Read a file's header.

    Raises:
        DataError: the file cannot be read, is empty, or does not begin like CSV.
    """
    first = next(blocks(path), None)
    lines = first.content.split(b"\n") if first else []
    number = next((number for number, line in enumerate(lines, start=1) if line.strip()), 0)
    if not number:
        raise DataError(f"{path}: is empty")
    try:
        return Header(_fields(lines[number - 1]), number)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}:{number}: is not a line of CSV ({error})") from error


def check_columns(path: Path, header: Header, needed: Sequence[str]) -> None:
    """Check that a file has the columns it should.

    Raises:
        DataError: it lacks some, or has one twice; names them and what is there.
    """
    twice = [name for name in needed if header.names.count(name) > 1]
    if twice:
        raise DataError(f"{path}:{header.line}: has the column {twice[0]} {header.names.count(twice[0])} times")
    lacking = [name for name in needed if name not in header.names]
    if lacking:
        columns = ", ".join(header.names)
        raise DataError(f"{path}:{header.line}: has no column {', '.join(lacking)}; its columns are {columns}")


def rows_of(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``file:line`` and the row of a small file with a header; fields in quotes may span lines.

    Raises:
        DataError: the file lacks a column, a row has another number of fields, or it is not UTF-8.
    """
    header = header_of(path)
    check_columns(path, header, needed)
    names = header.names
    lines = _decoded(path)
    for _ in range(header.line):
        next(lines)
    reader = csv.reader(lines, strict=True)
    while True:
        place = f"{path}:{header.line + reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{place}: is not CSV ({error})") from error
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(names):
            raise DataError(f"{place}: has {len(row)} fields; expected {len(names)}: {', '.join(names)}")
        yield place, dict(zip(names, row, strict=True))


def _decoded(path: Path) -> Iterator[str]:
    for block in blocks(path):
        for number, line in enumerate(block.content.splitlines(keepends=True), start=block.first_line):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: is not UTF-8 text (byte 0x{line[error.start]:02x})") from error


def block_rows(path: Path, block: Block, header: Header, patterns: Mapping[str, str], damaged: list[str]) -> "pa.Table":
    """Parse a block of a large file whose rows are single lines.

    Args:
        path: for the sentences.
        block: whole lines.
        header: of the file; its line is no row.
        patterns: the needed columns, and what each field of theirs must match, blanks around it left out.
        damaged: gets a sentence for every line that does not; such lines are passed over.

    Returns:
        The needed columns, as text.
    """
    content, first_line = block.content, block.first_line
    while first_line <= header.line and content:
        content, first_line = content.partition(b"\n")[2], first_line + 1
    lines = content.split(b"\n")
    num_rows = sum(1 for line in lines if line.strip())
    at_once = bool(num_rows) and _rows_are_lines(content, lines)
    table = _parsed_at_once(content, header.names, patterns) if at_once else None
    if table is not None and table.num_rows == num_rows:
        return table
    return _parsed_singly(path, lines, first_line, header.names, patterns, damaged)


def _rows_are_lines(content: bytes, lines: Sequence[bytes]) -> bool:
    """Say whether Arrow will take every line for a row: all is text, and no row begins or ends inside a line."""
    if content.count(b"\r") != content.count(b"\r\n"):
        return False
    if b'"' in content and any(line.count(b'"') % 2 for line in lines):
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parsed_at_once(content: bytes, names: Sequence[str], patterns: Mapping[str, str]) -> "pa.Table | None":
    """Let Arrow parse all lines; None if one of them is not as it should be."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    try:
        table = arrow_csv.read_csv(
            io.BytesIO(content),
            read_options=arrow_csv.ReadOptions(column_names=list(names), block_size=len(content) + 1),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=list(patterns)
            ),
        )
    except pa.ArrowInvalid:
        return None
    for name, pattern in patterns.items():
        if not pc.all(pc.match_substring_regex(table.column(name), f"^(?:{pattern})$"), min_count=0).as_py():
            return None
    return table


def _parsed_singly(
    path: Path,
    lines: Sequence[bytes],
    first_line: int,
    names: Sequence[str],
    patterns: Mapping[str, str],
    damaged: list[str],
) -> "pa.Table":
    """Parse every line by itself, slowly, and tell which ones mean nothing."""
    import pyarrow as pa

    kept: dict[str, list[str]] = {name: [] for name in patterns}
    for number, line in enumerate(lines, start=first_line):
        if not line.strip():
            continue
        try:
            fields = _fields(line)
        except (UnicodeDecodeError, csv.Error) as error:
            damaged.append(f"{path}:{number}: is not a line of CSV ({error})")
            continue
        if len(fields) != len(names):
            damaged.append(f"{path}:{number}: has {len(fields)} fields; expected {len(names)}: {', '.join(names)}")
            continue
        row = dict(zip(names, fields, strict=True))
        wrong = next((name for name, pattern in patterns.items() if not _matches(pattern, row[name])), None)
        if wrong is not None:
            damaged.append(f"{path}:{number}: {wrong} is {row[wrong][:80]!r}")
            continue
        for name in patterns:
            kept[name].append(row[name])
    return pa.table({name: pa.array(values, pa.string()) for name, values in kept.items()})


def _matches(pattern: str, field: str) -> bool:
    return re.fullmatch(pattern, field, re.ASCII) is not None


def _fields(line: bytes) -> list[str]:
    """Split one line; a quote that does not end in it is an error."""
    return [field.strip(_BLANKS) for field in next(csv.reader([line.decode().rstrip("\r")], strict=True), [])]
