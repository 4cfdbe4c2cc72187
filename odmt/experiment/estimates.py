"""How long work will take, from a little of it done now or from how fast it went before."""

import shutil
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from odmt.commands import duration
from odmt.data.lines import blocks
from odmt.data.sources.common import Pictures
from odmt.errors import DataError, OdmtError
from odmt.features.picture_places import Place, close_places, content_of, file_place
from odmt.features.pictures import FILE_SUFFIXES, decode
from odmt.features.records import RecordFile
from odmt.features.store import checked_manifest
from odmt.home import Home

SAMPLE = 16
"""Pictures decoded to estimate the time of all."""
GPU_FLOPS = 2e13
"""Operations a second of one GPU in half precision: a fifteenth of an A100's peak."""
MATRIX_SECONDS = 0.2


def mean_line(path: Path) -> float:
    """Return the mean length of the lines in a file's first block, in bytes."""
    content = next(blocks(path), None)
    return len(content.content) / max(1, content.next_line - content.first_line) if content else 1.0


def some_pictures(pictures: Pictures) -> list[Place]:
    """Return where a few of a source's pictures are; none if they are in an LMDB or there are none."""
    if pictures.folder is None:
        return []
    files = Path(pictures.folder).glob("*/*" if pictures.nested else "*")
    whole = (path for path in files if path.suffix.lower() in FILE_SUFFIXES and path.is_file())
    return [file_place(path) for path in islice(whole, SAMPLE)]


def decode_seconds(places: Sequence[Place]) -> float:
    """Read and decode a few pictures now; return the seconds of one."""
    sample = places[:: max(1, len(places) // SAMPLE)][:SAMPLE]
    started = time.perf_counter()
    for place in sample:
        try:
            decode(content_of(place))
        except DataError:
            continue
    close_places()
    return (time.perf_counter() - started) / max(1, len(sample))


def extraction_rate(home: Home, path: Path, flops: float) -> tuple[float, str]:
    """Return how many items a second an encoder will take, and where that is from.

    Args:
        home: stores of other data sets know how fast the same encoder was.
        path: the store to be filled.
        flops: operations an item.
    """
    for other in [path, *sorted(home.features("*").parent.glob(f"*/{path.name}"))]:
        rate = _kept_rate(other)
        if rate:
            return rate, "as fast as before"
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if gpus:
        return gpus * GPU_FLOPS / flops, f"assuming {GPU_FLOPS / 1e12:.0f} TFLOP/s on each of {gpus} GPUs"
    return _cpu_flops() / flops, "from a matrix product timed now"


def _kept_rate(path: Path) -> float | None:
    try:
        with RecordFile(path) as store:
            rate: float | None = checked_manifest(store).get("items_per_second")
            return rate
    except OdmtError:
        return None


def _cpu_flops() -> float:
    """Time a matrix product; return operations a second."""
    left = np.ones((1024, 768), np.float32)
    right = np.ones((768, 1024), np.float32)
    left @ right
    started = time.perf_counter()
    rounds = 0
    while time.perf_counter() - started < MATRIX_SECONDS:
        left @ right
        rounds += 1
    return rounds * 2 * 1024 * 768 * 1024 / (time.perf_counter() - started)


def free_bytes(path: Path) -> int:
    """Return the room on the disk that a file lies on, or will."""
    return shutil.disk_usage(next(parent for parent in path.parents if parent.exists())).free


def about(seconds: float) -> str:
    """Return an estimated time in words."""
    return f"about {duration(max(1.0, seconds))}"
