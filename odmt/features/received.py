"""What a server sent for a picture: unpacked within a limit, and told apart from what only pretends to be one."""

import re
import threading
import zlib
from typing import NamedTuple

from odmt.errors import DataError
from odmt.features.pictures import FORMATS, decode

TOO_LARGE = "(download_max_bytes)"
"""Stands in the reason of a picture that a larger limit would let through."""
_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF8", "gif"), (b"BM", "bmp"))
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,40}/[\w.+-]{1,40}", re.ASCII)
_HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)


class Picture(NamedTuple):
    """A whole picture as it came, and the suffix that its content asks for."""

    content: bytes
    suffix: str


def unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a Content-Encoding; none is asked for, but some stores hold gzipped pictures and send nothing else.

    Raises:
        DataError: it is another one than gzip, broken, or more than ``max_bytes`` come out.
    """
    if encoding.lower() in ("", "identity"):
        return body
    if encoding.lower() not in ("gzip", "x-gzip"):
        raise DataError("is sent in an encoding that was not asked for")
    try:
        content = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise DataError("is said to be gzip, but is not") from error
    check_size(len(content), max_bytes)
    return content


def check_size(num_bytes: int, max_bytes: int) -> None:
    """Refuse what is too large.

    Raises:
        DataError: there are more bytes than allowed.
    """
    if num_bytes > max_bytes:
        raise DataError(f"has more than {max_bytes:,} bytes {TOO_LARGE}")


def as_picture(content: bytes, media_type: str, decoding: threading.Lock) -> Picture:
    """Check by decoding that bytes are a whole picture in one of the formats that the encoders read.

    Args:
        content: the bytes.
        media_type: the Content-Type sent with them; only to tell what came instead of a picture.
        decoding: held while the picture is decoded, which may take a quarter of a gigabyte.

    Raises:
        DataError: they are not; says what they are.
    """
    suffix = suffix_of(content)
    if suffix is None:
        raise DataError(_what_came(content, media_type))
    with decoding:
        decode(content)
    return Picture(content, suffix)


def suffix_of(content: bytes) -> str | None:
    """Return the file name suffix of the format that bytes begin like, None if like no picture."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return next((suffix for magic, suffix in _MAGIC if content.startswith(magic)), None)


def _what_came(content: bytes, media_type: str) -> str:
    if not content:
        return "is empty"
    known = _MEDIA_TYPE.match(media_type)
    if _HTML.match(content) or (known and known[0].lower() == "text/html"):
        return "is HTML, not a picture"
    return f"is {known[0]}, no {', '.join(FORMATS)} picture" if known else f"is no {', '.join(FORMATS)} picture"
