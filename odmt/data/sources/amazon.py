"""Read a folder in the authors' Amazon layout.

``<tag>_user_behaviours.tsv`` has a line ``user TAB item item ...`` a user, oldest item first; ``<tag>_text.tsv`` a line
``item TAB text [TAB text ...]`` an item, whose columns are joined by a blank; pictures lie in
``images/<item id>.jpg|jpeg|png``. A byte order mark, Windows line ends and trailing blanks are tolerated.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from odmt.data.interactions import Catalogue, Interactions
from odmt.errors import DataError, MissingDataError

_BEHAVIOURS = "_user_behaviours.tsv"
_TEXT = "_text.tsv"
_PICTURES = (".jpg", ".jpeg", ".png")
_LONGEST_ID = 500  # bytes; LMDB takes keys up to 511

logger = logging.getLogger(__name__)


class AmazonSource(NamedTuple):
    """What a source folder holds.

    Attributes:
        interactions: sequences of catalogue rows.
        catalogue: the items.
        images: folder of the pictures; may be missing on disk.
    """

    interactions: Interactions
    catalogue: Catalogue
    images: Path


def read_amazon(folder: Path) -> AmazonSource:
    """Read behaviours and texts; pictures are only pointed to.

    A user on two lines is kept as two rows and warned about: the split lets the second one count.

    Raises:
        MissingDataError: the folder or one of its two files does not exist.
        DataError: a line is malformed; the sentence names file and line.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{folder}: is not a folder; expected one with <tag>{_BEHAVIOURS} and <tag>{_TEXT}")
    behaviours = _only_file(folder, _BEHAVIOURS)
    tag = behaviours.name.removesuffix(_BEHAVIOURS)
    text = folder / f"{tag}{_TEXT}"
    if not text.is_file():
        raise MissingDataError(f"{text}: does not exist, but {behaviours.name} does; the two belong together")
    catalogue, rows = _read_text(text)
    return AmazonSource(_read_behaviours(behaviours, text, rows), catalogue, folder / "images")


def picture_files(images: Path) -> dict[str, list[Path]]:
    """Return the picture files of a folder by item id; more than one for an item is the caller's to refuse.

    Raises:
        MissingDataError: the folder does not exist.
    """
    if not images.is_dir():
        raise MissingDataError(f"{images}: is not a folder; expected pictures named <item id>.jpg, .jpeg or .png")
    found: dict[str, list[Path]] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in _PICTURES:
            found.setdefault(path.stem, []).append(path)
    return found


def _only_file(folder: Path, suffix: str) -> Path:
    found = sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    if not found:
        raise MissingDataError(f"{folder}: holds no file named <tag>{suffix}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder}: holds {len(found)} files named <tag>{suffix} ({names}); expected one")
    return found[0]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``file:line`` and the text of every line that is not blank; one with a TAB is not.

    Only a line feed ends a line: titles may hold characters that ``str.splitlines`` would also break at.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: is not UTF-8 text (byte 0x{content[error.start]:02x})") from error
    for number, line_text in enumerate(text.split("\n"), start=1):
        if line_text.strip() or "\t" in line_text:
            yield f"{path}:{number}", line_text.rstrip("\r")


def _read_text(path: Path) -> tuple[Catalogue, dict[str, int]]:
    titles: list[str] = []
    rows: dict[str, int] = {}
    places: list[str] = []
    for place, line in _lines(path):
        item, tab, text = line.partition("\t")
        if not tab:
            raise DataError(f"{place}: has no TAB; expected: item TAB text")
        item = item.strip()
        _check_item_id(item, place)
        if item in rows:
            raise DataError(f"{place}: item {item!r} stands here for the second time, first at {places[rows[item]]}")
        rows[item] = len(titles)
        places.append(place)
        titles.append(" ".join(text.split("\t")).strip())
    if not titles:
        raise DataError(f"{path}: is empty; expected a line for every item: item TAB text")
    return Catalogue(list(rows), titles), rows


def _check_item_id(item: str, place: str) -> None:
    if not item:
        raise DataError(f"{place}: has no item id before the TAB")
    for bad in ("/", "\\", "..", "\0"):
        if bad in item:
            raise DataError(f"{place}: item id {item!r} holds {bad!r}, which no picture's file name may")
    if any(character.isspace() for character in item):
        raise DataError(f"{place}: item id {item!r} holds a blank, at which behaviours are split")
    if len(item.encode()) > _LONGEST_ID:
        raise DataError(f"{place}: item id {item[:20]!r}... has {len(item.encode())} bytes, more than {_LONGEST_ID}")


def _read_behaviours(path: Path, text: Path, rows: dict[str, int]) -> Interactions:
    users: list[str] = []
    ends = [0]
    items: list[int] = []
    first_place: dict[str, str] = {}
    repeated: list[str] = []
    for place, line in _lines(path):
        user, tab, sequence = line.partition("\t")
        if not tab:
            raise DataError(f"{place}: has no TAB; expected: user TAB item item ...")
        user = user.strip()
        if not user:
            raise DataError(f"{place}: has no user before the TAB")
        for item in sequence.split():
            row = rows.get(item)
            if row is None:
                raise DataError(f"{place}: item {item!r} of user {user!r} has no line in {text}")
            items.append(row)
        if len(items) == ends[-1]:
            raise DataError(f"{place}: user {user!r} has no items after the TAB")
        if user in first_place:
            repeated.append(f"user {user!r} at {place} (first at {first_place[user]})")
        first_place.setdefault(user, place)
        users.append(user)
        ends.append(len(items))
    if not users:
        raise DataError(f"{path}: is empty; expected a line for every user: user TAB item item ...")
    if repeated:
        logger.warning("%d users stand on several lines; the last counts, such as %s", len(repeated), repeated[0])
    return Interactions(users, np.array(ends, dtype=np.int64), np.array(items, dtype=np.int32))
