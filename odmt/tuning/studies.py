"""All studies of a home, from their folders alone: how each stands, what it takes on disk, how it is deleted."""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odmt.errors import EventLogError, StudyError, StudyLockedError
from odmt.home import Home
from odmt.tuning.event_log import decode, is_owned, read_log
from odmt.tuning.state import Study
from odmt.tuning.study import check_name, study_names

_ASIDE = ".deleted"  # a level deeper than studies lie, so that no one takes its contents for one


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk: of the event log, of each trial's folder (its checkpoints), of everything else."""

    log: int
    trials: Mapping[str, int]
    other: int

    @property
    def checkpoints(self) -> int:
        """Bytes of all trials' folders."""
        return sum(self.trials.values())

    @property
    def total(self) -> int:
        """Bytes of the study's folder."""
        return self.log + self.checkpoints + self.other


@dataclass(frozen=True)
class Standing:
    """How a study stands.

    Attributes:
        study: the folded log; an empty one where the log is damaged.
        damage: why the log cannot be read; None = it can.
        pid: of the driver that owns the study now; None = nobody does.
        opened: what the last driver recorded at its start; empty = none has got so far.
        since: when the driver that owns the study took it; only meaningful with ``pid``.
        last_activity: time of the last record.
    """

    name: str
    folder: Path
    study: Study
    damage: str | None
    pid: int | None
    opened: Mapping[str, Any]
    since: float
    last_activity: float
    sizes: Sizes

    @property
    def state(self) -> str:
        """One word or two: ``damaged``, ``running``, ``tainted``, ``budget met``, ``finished``, ``interrupted``."""
        study = self.study
        if self.damage is not None:
            return "damaged"
        if self.pid is not None:
            return "running"
        if not study.header:
            return "empty"
        if study.tainted:
            return "tainted"
        if study.limit is not None:
            return "budget met"
        return "finished" if study.finished else "interrupted"

    @property
    def host(self) -> str | None:
        """Where the driver runs; None = it has not said so yet, or nobody owns the study."""
        return str(self.opened["host"]) if self.pid is not None and self.opened.get("pid") == self.pid else None

    @property
    def now(self) -> float:
        """Up to when time counts as used: this moment while a driver searches, else the last record."""
        return time.time() if self.host is not None else self.last_activity


def study_folder(home: Home, name: str) -> Path:
    """Return the folder of a study that exists.

    Raises:
        StudyError: there is none of that name, or it is no name; lists those there are.
    """
    check_name(home, name)
    folder = home.study(name)
    if not (folder / "events.jsonl").is_file():
        raise StudyError(f"there is no study {name!r} under {folder.parent}; studies: {study_names(folder.parent)}")
    return folder


def standings(home: Home) -> list[Standing]:
    """Return how every study stands, the last active one first; a damaged log does not hide the others."""
    logs = home.study("x").parent.glob("*/events.jsonl")
    return sorted((standing(log.parent) for log in logs), key=lambda one: -one.last_activity)


def standing(folder: Path) -> Standing:
    """Return how the study in a folder stands."""
    log, damage, study, opened = folder / "events.jsonl", None, Study(), {}
    try:
        study = read_log(log)
        opened = _last_opened(log.read_bytes())
    except EventLogError as error:
        damage = str(error)
    except OSError as error:
        damage = f"{log}: cannot be read: {error.strerror}"
    owned = is_owned(folder)
    return Standing(
        name=folder.name,
        folder=folder,
        study=study,
        damage=damage,
        pid=_locked_by(folder) if owned else None,
        opened=opened,
        since=_changed(folder / "lock"),
        last_activity=study.last_time or _changed(log),
        sizes=sizes(folder),
    )


def _last_opened(content: bytes) -> dict[str, Any]:
    start = content.rfind(b'\n{"kind":"opened"') + 1
    end = content.find(b"\n", start)
    return decode(content[start:end]) if start and end > 0 else {}


def _locked_by(folder: Path) -> int:
    """Return the process that has written itself into a lock; 0 = it has not yet."""
    text = (folder / "lock").read_text(encoding="utf-8", errors="replace").strip()
    return int(text) if text.isdecimal() else 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def sizes(folder: Path) -> Sizes:
    """Return what a study takes on disk; what goes away meanwhile is not counted."""
    trials: dict[str, int] = {}
    log = other = 0
    for where, _, names in os.walk(folder):
        inside = Path(where).relative_to(folder).parts
        for name in names:
            try:
                size = os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
            if len(inside) > 1 and inside[0] == "trials":
                trials[inside[1]] = trials.get(inside[1], 0) + size
            elif not inside and name == "events.jsonl":
                log = size
            else:
                other += size
    return Sizes(log, trials, other)


def delete_study(folder: Path) -> None:
    """Delete a study's folder: first moved aside in one step, then removed, with what an earlier deletion left.

    Raises:
        StudyLockedError: a driver owns it.
    """
    with _held(folder):
        place = folder.parent / _ASIDE
        place.mkdir(exist_ok=True)
        aside = place / f"{folder.name}-{uuid.uuid4().hex[:8]}"
        folder.rename(aside)
        shutil.rmtree(aside)
    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep drivers out; unlike ``EventLog`` also where the log is damaged."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for left in range(10, -1, -1):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    pid = _locked_by(folder)
                    raise StudyLockedError(
                        f"study {folder.name!r} is being run by process {pid}; "
                        f"python launch/study.py stop {folder.name} ends that"
                    ) from None
                time.sleep(0.02)  # a reader that only asks who owns the study holds it for a moment
        yield
    finally:
        os.close(lock)
