"""Where each item's picture lies: in a folder of files, in the authors' LMDB, or among those that were fetched."""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from odmt.data.pickles import read_pickle
from odmt.data.sources.common import Pictures
from odmt.data.sources.release import image_key
from odmt.errors import DataError, MissingDataError
from odmt.features.legacy_images import LegacyImages
from odmt.features.pictures import FILE_SUFFIXES

NO_PICTURE = "has no picture"
"""The reason of an item that is in none of the places."""


class Place(NamedTuple):
    """Where one picture lies.

    Attributes:
        kind: a file, or a record of the authors' LMDB.
        path: of the file or of the LMDB.
        key: of the record.
        stamp: size and time of change of the file, by which a changed one is told.
    """

    kind: Literal["file", "record"]
    path: str
    key: bytes
    stamp: str

    @property
    def num_bytes(self) -> int:
        """Size of the file, or of the whole LMDB."""
        return int(self.stamp.partition("-")[0])


class Located(NamedTuple):
    """Where the pictures of some items lie.

    Attributes:
        places: by item id.
        reasons: why an item has no place, by item id.
    """

    places: dict[str, Place]
    reasons: dict[str, str]


def locate(pictures: Pictures, items: Iterable[str], fetched: Mapping[str, list[Path]]) -> Located:
    """Find the items' pictures; of several places the folder comes first, then the LMDB, then what was fetched.

    Args:
        pictures: where the source says they are.
        items: whose.
        fetched: files that were downloaded, by item id.

    Raises:
        MissingDataError: the folder, the LMDB or the list has gone.
        DataError: the LMDB or the list is not readable.
    """
    files = picture_files(Path(pictures.folder), nested=pictures.nested) if pictures.folder else {}
    listed = _listed(Path(pictures.listed)) if pictures.listed else None
    found = Located({}, {})
    with _Records(pictures) as records:
        for item in items:
            candidates = files.get(item, [])
            if listed is not None and item not in listed:
                found.reasons[item] = f"is not listed in {Path(str(pictures.listed)).name}"
            elif len(candidates) > 1:
                names = ", ".join(path.name for path in candidates)
                found.reasons[item] = f"has {len(candidates)} pictures: {names}"
            elif candidates:
                try:
                    found.places[item] = file_place(candidates[0])
                except OSError as error:  # a link to nowhere
                    found.reasons[item] = f"has a picture that cannot be read: {candidates[0].name}: {error.strerror}"
            elif place := records.place(item):
                found.places[item] = place
            elif item in fetched:
                found.places[item] = file_place(fetched[item][0])
            else:
                found.reasons[item] = NO_PICTURE
    return found


def picture_files(folder: Path, *, nested: bool = False) -> dict[str, list[Path]]:
    """Return the picture files of a folder by item id.

    Args:
        folder: of the files.
        nested: they lie in its subfolders, not in itself.

    Raises:
        MissingDataError: the folder does not exist.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{folder}: is not a folder; expected pictures named <item id>.jpg, .png or the like")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*/*") if nested else folder.iterdir()):
        if path.suffix.lower() in FILE_SUFFIXES:
            found.setdefault(path.stem, []).append(path)
    return found


def content_of(place: Place) -> bytes:
    """Return a picture's encoded bytes; call ``close_places`` after the last one.

    Raises:
        DataError: it cannot be read; without the file's name.
    """
    if place.kind == "record":
        return _open_legacy(place.path).picture(place.key)
    try:
        return Path(place.path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error


class _Records:
    """The authors' LMDB, or none."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._lmdb = LegacyImages(Path(pictures.lmdb)) if pictures.lmdb else None
        self._stamp = _stamp(_content_file(Path(pictures.lmdb))) if pictures.lmdb else ""

    def __enter__(self) -> "_Records":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lmdb is not None:
            self._lmdb.close()

    def place(self, item: str) -> Place | None:
        if self._lmdb is None:
            return None
        key = image_key(item, self._pictures.numbered)
        return Place("record", str(self._lmdb.path), key, self._stamp) if self._lmdb.holds(key) else None


def close_places() -> None:
    """Close what ``content_of`` keeps open in this process; LMDB wants a file opened once at a time."""
    _open_legacy.cache_clear()


@lru_cache(maxsize=1)
def _open_legacy(path: str) -> LegacyImages:
    return LegacyImages(Path(path))


def _content_file(path: Path) -> Path:
    return path / "data.mdb" if path.is_dir() else path


def file_place(path: Path) -> Place:
    """Return the place of a picture that is a file."""
    return Place("file", str(path), b"", _stamp(path))


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _listed(path: Path) -> frozenset[str]:
    return frozenset(_checked(read_pickle(path.read_bytes(), str(path)), path))


def _checked(value: object, path: Path) -> Iterator[str]:
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(item, str) for item in value):
        raise DataError(
            f"{path}: holds a {type(value).__name__} of other things than item ids; expected a list of them"
        )
    yield from value
