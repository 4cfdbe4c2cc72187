"""What every source has in common: the files that make it up, and what reading it gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from odmt.data.events import Wanted
from odmt.data.interactions import Catalogue, Interactions
from odmt.errors import DataError

FormName = Literal["amazon", "ks", "hm", "amazon-2018", "hm-kaggle", "microlens"]


class Pictures(NamedTuple):
    """Where a source's pictures are; each item's is taken from the first place that has it.

    Attributes:
        folder: holds ``<item id>.jpg``, or with another suffix of ``FILE_SUFFIXES``.
        nested: the files lie in subfolders.
        listed: the authors' pickled list of items whose pictures count; None = all count.
        lmdb: the authors' LMDB of pickled pixels.
        numbered: its keys are the integers behind the ``v`` of the item ids, not the ids.
    """

    folder: str | None = None
    nested: bool = False
    listed: str | None = None
    lmdb: str | None = None
    numbered: bool = False


class Found(NamedTuple):
    """The files of a source in one folder.

    Attributes:
        form: which of the forms they make up.
        files: by their part in it: ``behaviours``, ``text``, ``reviews``, ...
        pictures: where the pictures are.
    """

    form: FormName
    files: Mapping[str, Path]
    pictures: Pictures


class Source(NamedTuple):
    """What a source holds.

    Attributes:
        interactions: sequences of catalogue rows.
        catalogue: the items.
        urls: of each item's pictures, best first; None where the source names none.
        notes: what was left out or mended, and how often.
    """

    interactions: Interactions
    catalogue: Catalogue
    urls: dict[str, list[str]] | None
    notes: dict[str, int]


@dataclass(frozen=True)
class Form:
    """One form in which the data can lie in a folder.

    Attributes:
        name: as ``prepare.form`` takes it.
        title: in words.
        layout: the files that make it up, in words.
        find: returns the files of a folder, or None if it is not in this form.
        read: reads them; the last argument is a folder for what a stopped reading goes on from.
        core: fewest interactions of a user, and of an item, unless the configuration says otherwise.
    """

    name: FormName
    title: str
    layout: str
    find: Callable[[Path], Found | None]
    read: Callable[[Found, Wanted, Path], Source]
    core: tuple[int, int] = field(default=(1, 1))


def only(folder: Path, pattern: str, *, without: str = "") -> Path | None:
    """Return the one entry of a folder that matches, or None if none does.

    Args:
        folder: where to look.
        pattern: a glob pattern.
        without: entries whose name holds this do not count.

    Raises:
        DataError: several match.
    """
    found = [path for path in sorted(folder.glob(pattern)) if not without or without not in path.name]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder}: holds {len(found)} files named {pattern} ({names}); leave one of them there")
    return found[0] if found else None


def existing(path: Path) -> str | None:
    """Return a path as text if something is there."""
    return str(path) if path.exists() else None
