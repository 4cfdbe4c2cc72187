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
LONGEST_LINE = 256 * 2**20
_PIECE_BYTES = 2**20
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
    """Yield a file's lines in blocks of about 32 MiB; memory stays at a few blocks, or at the longest line.

    Args:
        path: plain text, or gzip whatever its name.
        start: offset in the uncompressed file to go on from, a block's ``end``.
        first_line: number of the line there.
        tell: told how many bytes of the file on disk have been read.

    Raises:
        DataError: the file cannot be read, has a line of more than 256 MiB, or its compressed stream is damaged or cut
            off; names the last whole line.
    """
    with _opened(path) as (file, raw):
        end, line, held = start, first_line, bytearray()
        try:
            file.seek(start)
            while piece := file.read(min(_PIECE_BYTES, BLOCK_BYTES)):
                held += piece
                if len(held) < BLOCK_BYTES:
                    continue
                if tell is not None:
                    tell(raw.tell())
                cut = held.rfind(b"\n") + 1
                if cut:
                    yield _block(bytes(held[:cut]), end, line)
                    end, line = end + cut, line + held.count(b"\n", 0, cut)
                    del held[:cut]
                elif len(held) > LONGEST_LINE:
                    raise DataError(f"{path}:{line}: has more than {LONGEST_LINE:,} bytes; that is no text file")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            whole = line - 1 + held.count(b"\n")
            raise DataError(f"{path}: is cut off or damaged after line {whole} ({error}); download it again") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        if tell is not None:
            tell(raw.tell())
        if held:
            yield _block(bytes(held), end, line)


def _block(content: bytes, start: int, line: int) -> Block:
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    text = content.removeprefix(_BYTE_ORDER_MARK) if start == 0 else content
    return Block(text, line, start + len(content), line + lines)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file and, beneath it, the one whose position tells how far on disk we are."""
    try:
        raw = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield io.BufferedReader(unpacked, _PIECE_BYTES), raw
        else:
            yield raw, raw
