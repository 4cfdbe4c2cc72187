"""Text files read as lines that know where they stand, and large ones in blocks of whole lines, compressed or not.

A byte order mark and Windows line ends are tolerated everywhere. Only a line feed ends a line: titles may hold
characters that ``str.splitlines`` would also break at.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from odmt.errors import DataError

BLOCK_BYTES = 32 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"


class Block(NamedTuple):
    """Whole lines of a file.

    Attributes:
        content: the lines; the last one of the file may lack its line feed.
        first_line: number of the first, counted from 1.
        end: offset of the byte after them, in the uncompressed file.
        next_line: number of the line after them.
    """

    content: bytes
    first_line: int
    end: int
    next_line: int


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``file:line`` and the text of every line that is not blank; one with a TAB is not.

    Raises:
        DataError: the file cannot be read, or is not UTF-8; names the line.
    """
    for block in blocks(path):
        for number, line in enumerate(block.content.split(b"\n"), start=block.first_line):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: is not UTF-8 text (byte 0x{line[error.start]:02x})") from error
            if text.strip() or "\t" in text:
                yield f"{path}:{number}", text.rstrip("\r")


def blocks(
    path: Path, start: int = 0, first_line: int = 1, tell: Callable[[int], None] | None = None
) -> Iterator[Block]:
    """Yield a file's lines in blocks of about 32 MiB; memory stays at a few blocks however large the file is.

    Args:
        path: plain text, or gzip whatever its name.
        start: offset in the uncompressed file to go on from, a block's ``end``.
        first_line: number of the line there.
        tell: told how many bytes of the file on disk have been read.

    Raises:
        DataError: the file cannot be read, or the compressed stream is damaged or cut off; names the last whole line.
    """
    with _opened(path) as (file, raw):
        line, rest = first_line, b""
        try:
            _skip(file, start)
            end = start
            while chunk := file.read(BLOCK_BYTES):
                if tell is not None:
                    tell(raw.tell())
                lines, feed, after = (rest + chunk).rpartition(b"\n")
                if not feed:
                    rest = after
                    continue
                content = lines + feed
                block = Block(_without_mark(content, end), line, end + len(content), line + content.count(b"\n"))
                yield block
                end, line, rest = block.end, block.next_line, after
            if rest:
                yield Block(_without_mark(rest, end), line, end + len(rest), line + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{path}: is cut off or damaged after line {line - 1:,} ({error}); download it again"
            ) from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _without_mark(content: bytes, offset: int) -> bytes:
    return content.removeprefix(_BYTE_ORDER_MARK) if offset == 0 else content


def _skip(file: BinaryIO, count: int) -> None:
    if file.seekable() and not isinstance(file, gzip.GzipFile):
        file.seek(count)
        return
    while count > 0 and (chunk := file.read(min(count, 2**20))):
        count -= len(chunk)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file and, beneath it, the one whose position tells how far on disk we are."""
    try:
        raw = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with raw:
        if raw.read(2) == _GZIP_MAGIC:
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield io.BufferedReader(unpacked, 2**20), raw
        else:
            raw.seek(0)
            yield raw, raw
