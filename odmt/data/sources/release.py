"""The authors' release, in its three dialects.

``amazon``: ``<tag>_user_behaviours.tsv``, and ``<tag>_text.tsv`` with ``item TAB text [TAB text ...]``, joined by a
blank. ``ks``: ``<tag>_ks_pairs.tsv``, and ``<tag>_ks_title.csv`` with ``item,title``; later commas belong to the title.
``hm``: ``<name>_pick_users_<tag>.tsv``, and ``<name>_pick_items_<tag>.tsv`` with exactly ``item TAB title``; the key of
an item's picture in the LMDB is the integer behind its ``v``, elsewhere the item id.

All behaviours are ``user TAB item item ...``, oldest item first.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from odmt.data.events import Wanted, chosen_interactions
from odmt.data.interactions import Catalogue, Interactions, restricted
from odmt.data.item_ids import check_item_id
from odmt.data.lines import text_lines
from odmt.data.sources.assembling import note, note_empty
from odmt.data.sources.common import Form, FormName, Found, Pictures, Source, existing, only
from odmt.errors import DataError, MissingDataError

_NUMBERED = re.compile(r"v?\d+")


def find_amazon(folder: Path) -> Found | None:
    """Return the files of the Amazon dialect.

    Raises:
        MissingDataError: the text file is missing.
        DataError: several behaviours files.
    """
    behaviours = only(folder, "*_user_behaviours.tsv")
    if behaviours is None:
        return None
    tag = behaviours.name.removesuffix("_user_behaviours.tsv")
    pictures = Pictures(
        folder=existing(folder / "images"),
        listed=existing(folder / f"{tag}_valid_item_id.pkl"),
        lmdb=existing(folder / f"{tag}_image.lmdb"),
    )
    return _pair("amazon", behaviours, folder / f"{tag}_text.tsv", pictures)


def find_ks(folder: Path) -> Found | None:
    """Return the files of the KS dialect (the data set Stream); raises as ``find_amazon`` does."""
    behaviours = only(folder, "*_ks_pairs.tsv")
    if behaviours is None:
        return None
    tag = behaviours.name.removesuffix("_pairs.tsv")
    lmdb = existing(folder / f"{tag}_cover.lmdb") or existing(folder / f"{tag}_images.lmdb")
    pictures = Pictures(folder=existing(folder / "images"), lmdb=lmdb)
    return _pair("ks", behaviours, folder / f"{tag}_title.csv", pictures)


def find_hm(folder: Path) -> Found | None:
    """Return the files of the hm dialect; raises as ``find_amazon`` does."""
    behaviours = only(folder, "*_pick_users_*.tsv")
    if behaviours is None:
        return None
    lmdb = only(folder, "*_image_*.lmdb")
    pictures = Pictures(
        folder=existing(folder / "images"), lmdb=None if lmdb is None else str(lmdb), numbered=lmdb is not None
    )
    return _pair("hm", behaviours, folder / behaviours.name.replace("_pick_users_", "_pick_items_"), pictures)


def _pair(form: FormName, behaviours: Path, text: Path, pictures: Pictures) -> Found:
    if not text.is_file():
        raise MissingDataError(f"{text}: does not exist, but {behaviours.name} does; the two belong together")
    return Found(form, {"behaviours": behaviours, "text": text}, pictures)


def image_key(item: str, numbered: bool) -> bytes:
    """Return the key under which the authors' LMDB holds an item's picture."""
    return str(int(item.removeprefix("v"))).encode() if numbered else item.encode()


def read_release(found: Found, wanted: Wanted, work: Path) -> Source:
    """Read behaviours and texts of any dialect.

    A user on two lines is kept as two rows and counted in the notes: the split lets the second one count.

    Raises:
        DataError: a line is malformed; the sentence names file and line.
    """
    del work  # small files: nothing to go on from
    text = found.files["text"]
    catalogue, rows = _read_text(text, _SPLITS[found.form], numbered=found.pictures.numbered)
    interactions, notes = _read_behaviours(found.files["behaviours"], text, rows)
    note_empty(notes, catalogue)
    return Source(_selected(interactions, wanted, notes), catalogue, None, notes)


def _split_amazon(line: str, place: str) -> tuple[str, str]:
    item, tab, text = line.partition("\t")
    if not tab:
        raise DataError(f"{place}: has no TAB; expected: item TAB text")
    return item, " ".join(text.split("\t"))


def _split_hm(line: str, place: str) -> tuple[str, str]:
    item, tab, text = line.partition("\t")
    if not tab or "\t" in text:
        raise DataError(f"{place}: has {line.count(chr(9)) + 1} columns; expected two: item TAB title")
    return item, text


def _split_ks(line: str, place: str) -> tuple[str, str]:
    item, comma, text = line.partition(",")
    if not comma:
        raise DataError(f"{place}: has no comma; expected: item,title")
    return item, text


_SPLITS: dict[str, Callable[[str, str], tuple[str, str]]] = {
    "amazon": _split_amazon, "ks": _split_ks, "hm": _split_hm
}  # fmt: skip


def _read_text(
    path: Path, split: Callable[[str, str], tuple[str, str]], *, numbered: bool
) -> tuple[Catalogue, dict[str, int]]:
    titles: list[str] = []
    rows: dict[str, int] = {}
    places: list[str] = []
    for place, line in text_lines(path):
        item, text = split(line, place)
        item = item.strip()
        check_item_id(item, place)
        if numbered and not _NUMBERED.fullmatch(item):
            raise DataError(f"{place}: item id {item!r} is not v and digits, by which its picture is found")
        if item in rows:
            raise DataError(f"{place}: item {item!r} stands here for the second time, first at {places[rows[item]]}")
        rows[item] = len(titles)
        places.append(place)
        titles.append(text.strip())
    if not titles:
        raise DataError(f"{path}: is empty; expected a line for every item")
    return Catalogue(list(rows), titles), rows


def _read_behaviours(path: Path, text: Path, rows: dict[str, int]) -> tuple[Interactions, dict[str, int]]:
    users: list[str] = []
    ends = [0]
    items: list[int] = []
    seen: set[str] = set()
    repeated = 0
    for place, line in text_lines(path):
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
        repeated += user in seen
        seen.add(user)
        users.append(user)
        ends.append(len(items))
    if not users:
        raise DataError(f"{path}: is empty; expected a line for every user: user TAB item item ...")
    notes: dict[str, int] = {}
    note(notes, "lines of a user who stands on an earlier line; the last one counts", repeated)
    return Interactions(users, np.array(ends, dtype=np.int64), np.array(items, dtype=np.int32)), notes


def _selected(interactions: Interactions, wanted: Wanted, notes: dict[str, int]) -> Interactions:
    """Leave out what the configuration asks to; by itself the release is taken as it is."""
    if wanted.takes_all:
        return interactions
    line = np.repeat(np.arange(len(interactions.users)), np.diff(interactions.offsets))
    keep = chosen_interactions(line, interactions.items, wanted)
    note(notes, "interactions outside the selection", int((~keep).sum()))
    return restricted(interactions, keep)


AMAZON = Form(
    "amazon",
    "the authors' release, Amazon dialect",
    "<tag>_user_behaviours.tsv, <tag>_text.tsv, images/ or <tag>_image.lmdb",
    find_amazon,
    read_release,
)
KS = Form(
    "ks",
    "the authors' release, KS dialect",
    "<tag>_ks_pairs.tsv, <tag>_ks_title.csv, <tag>_ks_cover.lmdb or images/",
    find_ks,
    read_release,
)
HM = Form(
    "hm",
    "the authors' release, hm dialect",
    "hm_pick_users_<tag>.tsv, hm_pick_items_<tag>.tsv, hm_image_<tag>.lmdb or images/",
    find_hm,
    read_release,
)
