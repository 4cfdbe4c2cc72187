"""Fetch item pictures from the web into a folder; a second call fetches what is not there yet.

The folder::

    <two hex digits>/<item id>.<jpg|png|gif|webp|bmp>    the suffix that the content asks for
    <two hex digits>/~<digest>.<suffix>, ~<digest>.id    of an id that is no good as a file name, which .id holds
    failures.json                                        items that failed, and at which addresses
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from odmt.commands import progress
from odmt.config import PrepareConfig
from odmt.errors import DataError
from odmt.features.download_pool import fetch_all
from odmt.features.pictures import SUFFIXES
from odmt.features.received import TOO_LARGE, Picture
from odmt.files import write_atomically

FAILURES_FILE = "failures.json"
_RECORD_EVERY = 500
_LONGEST_NAME = 200  # bytes; file systems take 255, of which a suffix and write_atomically want some
_STAND_IN = "~"
_ID_SUFFIX = "id"
_SUBFOLDER = re.compile(r"[0-9a-f]{2}")
# What mkstemp adds to a prefix is eight of these characters.
_LEFTOVER = re.compile(rf"\..+\.({'|'.join((*SUFFIXES, _ID_SUFFIX, 'json'))})-[a-z0-9_]{{8}}", re.DOTALL)


class DownloadResult(NamedTuple):
    """What a call did.

    Attributes:
        fetched: pictures fetched now.
        present: pictures that were there already.
        failed: a one-clause reason by item id, of all items that have no picture, earlier calls' lasting ones included.
        num_bytes: size of the pictures fetched now.
        passing: how many of those that failed may do better later; the others are not asked for again.
    """

    fetched: int
    present: int
    failed: dict[str, str]
    num_bytes: int
    passing: int = 0


class _Failed(NamedTuple):
    """A failure, the addresses and the size limit that it is true of, and whether it may pass."""

    reason: str
    urls: list[str]
    max_bytes: int
    passing: bool

    def lasts(self, urls: Sequence[str], max_bytes: int) -> bool:
        """Say whether the same would come of asking again."""
        same = self.urls == urls and (TOO_LARGE not in self.reason or max_bytes <= self.max_bytes)
        return same and not self.passing


def download_pictures(
    folder: Path,
    urls: Mapping[str, Sequence[str]],
    settings: PrepareConfig,
    user_agent: str | None = None,
    *,
    base_wait_seconds: float = 1.0,
) -> DownloadResult:
    """Fetch the pictures that are not there yet; own the folder first.

    Args:
        folder: where the pictures go; made if missing.
        urls: an item's addresses by item id, best first.
        settings: connections, retries and limits.
        user_agent: sent as such; None = the package, its version and what it does.
        base_wait_seconds: wait before a picture's second try; doubled before each further one.

    Raises:
        DataError: ``failures.json`` is damaged.
        ServiceError: the network or a host is plainly gone; what was fetched is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    there = downloaded_files(folder)
    known = _read_failures(folder)
    missing = {item: list(candidates) for item, candidates in urls.items() if item not in there}
    limit = settings.download_max_bytes
    wanted = {
        item: asked for item, asked in missing.items() if item not in known or not known[item].lasts(asked, limit)
    }
    failed = {item: known[item].reason for item in missing if item not in wanted}

    def keep(item: str, picture: Picture) -> None:
        _keep(folder, item, picture)

    agent = _default_agent() if user_agent is None else user_agent
    fetched = num_bytes = passing = unrecorded = 0
    try:
        with closing(fetch_all(wanted, keep, settings, agent, base_wait_seconds)) as outcomes:
            for item, result in progress(outcomes, len(wanted), "downloading images"):
                if isinstance(result, int):
                    fetched += 1
                    num_bytes += result
                    unrecorded += known.pop(item, None) is not None
                else:
                    failed[item] = result.reason
                    passing += result.passing
                    known[item] = _Failed(result.reason, wanted[item], limit, result.passing)
                    unrecorded += 1
                if unrecorded >= _RECORD_EVERY:
                    _write_failures(folder, known)
                    unrecorded = 0
    finally:
        if unrecorded:
            _write_failures(folder, known)
    return DownloadResult(fetched, len(urls) - len(missing), failed, num_bytes, passing)


def downloaded_files(folder: Path) -> dict[str, list[Path]]:
    """Return the picture files by item id, in order of their ids; empty if the folder is missing."""
    found: dict[str, list[Path]] = {}
    for subfolder in _subfolders(folder):
        for name in os.listdir(subfolder):
            stem, _, suffix = name.rpartition(".")
            if suffix not in SUFFIXES or name.startswith("."):
                continue
            item = _stood_in_for(subfolder / f"{stem}.{_ID_SUFFIX}") if stem.startswith(_STAND_IN) else stem
            if item is not None:
                found.setdefault(item, []).append(subfolder / name)
    return {item: sorted(found[item]) for item in sorted(found)}


def _keep(folder: Path, item: str, picture: Picture) -> None:
    digest = hashlib.blake2b(item.encode()).hexdigest()
    subfolder, stem = folder / digest[:2], item
    if item.startswith((".", _STAND_IN)) or len(item.encode()) > _LONGEST_NAME:
        stem = f"{_STAND_IN}{digest[:64]}"
        write_atomically(subfolder / f"{stem}.{_ID_SUFFIX}", item.encode())  # first: a picture without it is no one's
    write_atomically(subfolder / f"{stem}.{picture.suffix}", picture.content)


def _stood_in_for(path: Path) -> str | None:
    return path.read_bytes().decode() if path.exists() else None


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [folder / entry.name for entry in os.scandir(folder) if _SUBFOLDER.fullmatch(entry.name) and entry.is_dir()]


def _sweep(folder: Path) -> None:
    """Delete the temporary files that a killed call left."""
    for parent in (folder, *_subfolders(folder)):
        for name in os.listdir(parent):
            if _LEFTOVER.fullmatch(name):
                (parent / name).unlink()


def former_failures(folder: Path) -> dict[str, str]:
    """Return why pictures could not be fetched when that was tried last, by item id.

    Raises:
        DataError: ``failures.json`` is damaged.
    """
    return {item: failure.reason for item, failure in _read_failures(folder).items()}


def _read_failures(folder: Path) -> dict[str, _Failed]:
    path = folder / FAILURES_FILE
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_bytes())
        return {
            item: _Failed(str(entry["reason"]), list(entry["urls"]), int(entry["max_bytes"]), bool(entry["passing"]))
            for item, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error!r}); delete it, and all that failed is tried again") from error


def _write_failures(folder: Path, failures: Mapping[str, _Failed]) -> None:
    entries = {item: failure._asdict() for item, failure in failures.items()}
    write_atomically(folder / FAILURES_FILE, json.dumps(entries, indent=1).encode())


def _default_agent() -> str:
    return f"odmt/{version('odmt')} (research; asks for each item picture once and waits when told to)"
