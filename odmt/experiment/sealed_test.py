"""The sealed test split: the only place that makes test targets; every read is written down before its numbers exist.

A read is identified by study, trial, checkpoint and data: asking again for the same one answers from the log.
"""

import contextlib
import fcntl
import getpass
import hashlib
import io
import json
import logging
import os
import socket
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from odmt.config import RunConfig
from odmt.data.split import FullSplit, Targets, development_split, last_item_targets
from odmt.errors import DataError
from odmt.evaluation.floors import floor_metrics
from odmt.experiment.arrays import arrays_digest, load_arrays, load_full_split
from odmt.experiment.build import choose_device, evaluate_model, load_model
from odmt.files import write_atomically
from odmt.home import Home

LOG_NAME = "sealed_test_reads.jsonl"
RANKS_FOLDER = "sealed_test_ranks"
IDENTITY = ("study", "study_id", "trial", "checkpoint", "data_digest")

_log = logging.getLogger(__name__)


class SealedTest(NamedTuple):
    """What one read of the sealed test split found.

    Attributes:
        metrics: fused head ``hr_at_10``, ``ndcg_at_10``, ...; other heads ``<head>/ndcg_at_10``; ``repeat_targets``.
        floors: the same names for ``popularity`` and ``transitions``.
        reads: how often this data set's test split has been read until now, this read included.
        reused: the numbers come from an earlier read of the same trial; the split was not read again.
    """

    metrics: dict[str, float]
    floors: dict[str, dict[str, float]]
    reads: int
    reused: bool


def read_sealed_test(
    home: Home, config: RunConfig, checkpoint: Path, *, study: str, study_id: str, trial_id: str
) -> SealedTest:
    """Evaluate a trial's checkpoint on the test split once, beside both floors.

    Args:
        home: where the data lie.
        config: the trial's configuration.
        checkpoint: folder with its weights.
        study: readable name of the study, for the log.
        study_id: its identity.
        trial_id: the trial's identity.

    Raises:
        DataError: data or features are missing, or the log is damaged.
        CheckpointError: the weights are missing or do not fit.
    """
    log = home.dataset(config.data.dataset) / LOG_NAME
    digest = arrays_digest(home, config)
    identity = {
        "study": study,
        "study_id": study_id,
        "trial": trial_id,
        "checkpoint": checkpoint.name,
        "data_digest": digest,
    }
    # Held until the result stands: of two promotes of one trial the second finds it instead of reading again.
    with _opened(log) as file:
        for entry in read_log(log):
            if entry["event"] == "result" and identity.items() <= entry.items():
                return SealedTest(entry["metrics"], entry["floors"], count_reads(log), reused=True)
        arrays = load_arrays(home, config)
        device = str(choose_device())
        model = load_model(config, arrays, checkpoint, device)
        full = load_full_split(home, config.data)
        _append(file, {"event": "read", **identity, **_who()})
        targets = sealed_targets(full)
        metrics, ranks = evaluate_model(model, config, arrays, targets, device)
        write_atomically(log.parent / RANKS_FOLDER / f"{_digest(identity)}.npz", _packed(ranks))
        floors = sealed_floors(full, targets, rank_repeat_targets=config.data.rank_repeat_targets)
        _append(file, {"event": "result", **identity, **_who(), "metrics": metrics, "floors": floors})
        return SealedTest(metrics, floors, count_reads(log), reused=False)


def sealed_targets(full: FullSplit) -> Targets:
    """Return every user's last item as the target; all before it is the history."""
    return last_item_targets(full.offsets, full.items)


def sealed_floors(
    full: FullSplit, targets: Targets, *, rank_repeat_targets: bool = False
) -> dict[str, dict[str, float]]:
    """Measure popularity and last-item transitions, both counted on training items only, on the test targets."""
    split = development_split(full)
    train = last_item_targets(split.offsets, split.items)
    return floor_metrics(
        train.offsets, train.history, split.num_items, targets, rank_repeat_targets=rank_repeat_targets
    )


def read_log(log: Path) -> list[dict[str, Any]]:
    """Return the log's entries, oldest first; a torn last line, a writer's death, is none.

    Raises:
        DataError: a whole line is not an entry; names it.
    """
    return list(_entries(log))


def count_reads(log: Path) -> int:
    """Count how often the test split has been read."""
    return sum(entry["event"] == "read" for entry in _entries(log))


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    if not log.exists():
        return
    for number, line in enumerate(log.read_bytes().splitlines(keepends=True), start=1):
        entry = _parsed(line)
        if entry is not None:
            yield entry
        elif line.endswith(b"\n"):
            shown = line[:80].decode(errors="replace").rstrip()
            raise DataError(f"{log}:{number}: not an entry of the sealed test's log: {shown!r}")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry: dict[str, Any] = json.loads(line)
        entry["event"]
    except (ValueError, KeyError, TypeError):
        return None
    return entry


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[BinaryIO]:
    """Open the log and hold its lock."""
    with open(log, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process reads the sealed test of %s; waiting for it", log.parent.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _append(file: BinaryIO, entry: dict[str, Any]) -> None:
    """Write one whole line and sync it: what follows may be killed. A torn line before it is cut off."""
    file.seek(0)
    content = file.read()
    tail = content[content.rfind(b"\n") + 1 :]
    line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
    if tail and _parsed(tail) is None:
        file.truncate(len(content) - len(tail))
    elif tail:  # only its newline is missing
        line = b"\n" + line
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


def read_ranks(home: Home, dataset: str, entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return of each head the rank of every user's test target, in user order, as an entry of the log found them.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = home.dataset(dataset) / RANKS_FOLDER / f"{_digest({name: entry[name] for name in IDENTITY})}.npz"
    try:
        with np.load(path) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: is gone, or this read of the sealed test is older than the keeping of ranks"
        ) from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the ranks of this read of the sealed test cannot be read: {error}") from error


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]


def _packed(ranks: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **ranks)
    return buffer.getvalue()


def _who() -> dict[str, str]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": f"{getpass.getuser()}@{socket.gethostname()}",
    }
