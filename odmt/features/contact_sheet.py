"""A sheet of pictures with their titles, to be looked at by a person."""

import io
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from odmt.features.pictures import decode

_COLUMNS, _SIDE, _GAP = 8, 144, 12
_TEXT_LINES, _TEXT_SIZE, _LINE_HEIGHT = 3, 12, 15
_BACKGROUND, _INK, _FAINT = "white", "black", "gray"
# Fonts with Chinese letters, as Linux distributions, macOS and Windows name their files.
_WIDE_FONTS = ("NotoSansCJK", "NotoSansSC", "SourceHanSans", "wqy", "DroidSansFallback", "PingFang", "msyh", "simhei")
_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts")
_MORE_FONT_FOLDERS = ("/System/Library/Fonts", "/Library/Fonts", "C:/Windows/Fonts")

logger = logging.getLogger(__name__)


class Card(NamedTuple):
    """One item of the sheet.

    Attributes:
        item: its id.
        title: cut to three lines.
        content: the encoded picture.
        is_blank: it stands for one that is missing.
    """

    item: str
    title: str
    content: bytes
    is_blank: bool


def contact_sheet(cards: Sequence[Card]) -> bytes:
    """Return a PNG of the cards in rows of eight: picture, id, title.

    Letters that no font of this machine has are boxes; that is logged once.
    """
    rows = -(-len(cards) // _COLUMNS)
    width = _COLUMNS * (_SIDE + _GAP) + _GAP
    height = rows * (_SIDE + (_TEXT_LINES + 1) * _LINE_HEIGHT + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = _font_for("".join(card.title for card in cards))
    for number, card in enumerate(cards):
        row, column = divmod(number, _COLUMNS)
        left = _GAP + column * (_SIDE + _GAP)
        top = _GAP + row * (_SIDE + (_TEXT_LINES + 1) * _LINE_HEIGHT + _GAP)
        _draw_card(sheet, draw, font, card, left, top)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_card(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, font: "ImageFont.FreeTypeFont", card: Card, left: int, top: int
) -> None:
    picture = decode(card.content)
    picture.thumbnail((_SIDE, _SIDE))
    if card.is_blank:
        picture = picture.resize((_SIDE, _SIDE))
    sheet.paste(picture, (left + (_SIDE - picture.width) // 2, top + (_SIDE - picture.height) // 2))
    below = top + _SIDE + 2
    name = f"{card.item} (no picture)" if card.is_blank else card.item
    lines = [_cut(name, font), *_wrapped(card.title or "(no title)", font)]
    for index, line in enumerate(lines):
        ink = _FAINT if index == 0 else _INK
        draw.text((left, below + index * _LINE_HEIGHT), line, fill=ink, font=font)


def _wrapped(text: str, font: "ImageFont.FreeTypeFont") -> list[str]:
    """Break a title into at most three lines, at blanks where it has any."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < _TEXT_LINES - 1:
        fitting = len(_cut(rest, font, mark=""))
        if fitting < len(rest) and " " in rest[:fitting]:
            fitting = rest[:fitting].rindex(" ")
        lines.append(rest[: max(1, fitting)].strip())
        rest = rest[max(1, fitting) :].strip()
    return [*lines, _cut(rest, font)] if rest else lines


def _cut(text: str, font: "ImageFont.FreeTypeFont", mark: str = "…") -> str:
    if font.getlength(text) <= _SIDE:
        return text
    while text and font.getlength(text + mark) > _SIDE:
        text = text[:-1]
    return text + mark


def _font_for(text: str) -> "ImageFont.FreeTypeFont":
    """Return a font that has all letters of a text, or the one that comes with Pillow."""
    own = ImageFont.load_default(_TEXT_SIZE)
    assert isinstance(own, ImageFont.FreeTypeFont)
    letters = sorted(set(text) - {" "})
    if _has(own, letters):
        return own
    for path in _wide_fonts():
        try:
            font = ImageFont.truetype(path, _TEXT_SIZE)
        except OSError:
            continue
        if _has(font, letters):
            return font
    logger.warning(
        "no font here has all letters of the titles; boxes stand for them (Debian: apt install fonts-noto-cjk)"
    )
    return own


def _has(font: "ImageFont.FreeTypeFont", letters: Sequence[str]) -> bool:
    missing = _shape(font, "\uffff")
    return all(_shape(font, letter) != missing for letter in letters)


def _shape(font: "ImageFont.FreeTypeFont", letter: str) -> bytes:
    mask = font.getmask(letter)
    return bytes(np.asarray(mask).tobytes()) + repr(mask.size).encode()


@lru_cache(maxsize=1)
def _wide_fonts() -> list[str]:
    folders = [Path(folder).expanduser() for folder in (*_FONT_FOLDERS, *_MORE_FONT_FOLDERS)]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.[ot]t[fc]"))]
    return [str(path) for name in _WIDE_FONTS for path in files if name.lower() in path.name.lower()]
