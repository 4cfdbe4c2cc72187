"""The authors' image LMDBs: one pickled object a picture, read without running what a pickle may hold.

An object's ``image`` is raw uint8 pixels ``(H, W, C)`` with ``size`` and ``channels`` beside them, or raw float32
pixels ``(3, 224, 224)`` that had been normalised by 0.5 and 0.5. Pixels are kept losslessly: as PNG, floats too where
they go back to whole numbers exactly, else as they are.
"""

import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb
import numpy as np

from odmt.data.pickles import PickledImage, read_pickle
from odmt.errors import DataError
from odmt.features.pictures import MOST_PIXELS, encode_floats, encode_png

_SIDE = 224
_FLOAT_BYTES = 4


class LegacyImages:
    """One LMDB of the authors', open for reading; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open it; no lock is taken.

        Args:
            path: a file, or a folder with ``data.mdb``.

        Raises:
            DataError: it is missing, cut off, or of another version of LMDB.
        """
        self.path = path
        content = path / "data.mdb" if path.is_dir() else path
        if not content.is_file():
            raise DataError(f"{content}: does not exist")
        try:
            self._lmdb = lmdb.open(os.fsencode(path), subdir=path.is_dir(), readonly=True, lock=False, create=False)
            # Reading past the end of a cut-off file would kill the process with SIGBUS.
            needed = (self._lmdb.info()["last_pgno"] + 1) * self._lmdb.stat()["psize"]
        except (lmdb.Error, OSError) as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise DataError(f"{path}: is not a readable LMDB ({reason}); fetch it again") from error
        if content.stat().st_size < needed:
            self.close()
            raise DataError(f"{path}: is cut off: {content.stat().st_size} of {needed} bytes; fetch it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._lmdb.close()

    def holds(self, key: bytes) -> bool:
        """Say whether there is a picture under a key."""
        try:
            with self._lmdb.begin(buffers=True) as transaction:
                return transaction.get(key) is not None
        except lmdb.Error:  # whoever asks for the picture is told
            return True

    def picture(self, key: bytes) -> bytes:
        """Return a picture as it is kept in our own store: a PNG, or floats.

        Raises:
            DataError: there is none, its pickle is not the authors', or its pixels do not fit its size.
        """
        try:
            with self._lmdb.begin(buffers=True) as transaction:
                value = transaction.get(key)
                if value is None:
                    raise DataError("is not in the LMDB")
                held = read_pickle(value, f"record {key.decode(errors='replace')!r}")
        except lmdb.Error as error:
            raise DataError(f"cannot be read from the LMDB ({error})") from error
        if not isinstance(held, PickledImage):
            raise DataError(f"is a pickled {type(held).__name__} in the LMDB, not a picture")
        pixels = _pixels(vars(held))
        return encode_png(pixels) if pixels.dtype == np.uint8 else encode_floats(pixels)


def _pixels(held: dict[str, Any]) -> np.ndarray:
    """Return uint8 ``(H, W, C)``, C one of 1, 3, 4, or float32 ``(3, H, W)``."""
    raw = held.get("image")
    if not isinstance(raw, bytes | bytearray):
        raise DataError("holds no pixels in the LMDB")
    shape = _shape(held, len(raw))
    count = math.prod(shape)
    if len(raw) not in (count, count * _FLOAT_BYTES):
        raise DataError(f"holds {len(raw)} bytes of pixels in the LMDB, which do not fit its size {shape}")
    if len(raw) == count:
        if shape[2] not in (1, 3, 4):
            raise DataError(f"has {shape[2]} channels in the LMDB; expected 1, 3 or 4")
        array = np.frombuffer(raw, dtype=np.uint8).reshape(shape)
        return array[:, :, 0] if shape[2] == 1 else array
    return whole_numbers(np.frombuffer(raw, dtype="<f4").reshape(shape))


def _shape(held: dict[str, Any], num_bytes: int) -> tuple[int, int, int]:
    if "size" not in held:  # the KS data set's older class
        return (3, _SIDE, _SIDE) if num_bytes == 3 * _SIDE * _SIDE * _FLOAT_BYTES else (_SIDE, _SIDE, 3)
    size, channels = held["size"], held.get("channels")
    numbers = (*size, channels) if isinstance(size, tuple | list) else ()
    if len(numbers) != 3 or any(type(number) is not int for number in numbers):
        kinds = f"{type(size).__name__} and {type(channels).__name__}"
        raise DataError(f"has no two whole numbers as its size and one of channels in the LMDB, but {kinds}")
    if not all(0 < number <= MOST_PIXELS for number in numbers):
        raise DataError(f"has a size or a number of channels in the LMDB outside 1 to {MOST_PIXELS:,}")
    return numbers[0], numbers[1], numbers[2]


def whole_numbers(floats: np.ndarray) -> np.ndarray:
    """Undo the normalisation by 0.5 and 0.5 where that is exact.

    Args:
        floats: float32 ``(3, H, W)``.

    Returns:
        uint8 ``(H, W, 3)`` that normalises to exactly these floats, or the floats.

    Raises:
        DataError: they have another shape or are not finite.
    """
    if floats.shape[0] != 3:
        raise DataError(f"holds float pixels {floats.shape} in the LMDB; expected (3, height, width)")
    if not np.isfinite(floats).all():
        raise DataError("holds pixels in the LMDB that are not finite")
    nearest = np.clip(np.rint((floats.astype(np.float64) * 0.5 + 0.5) * 255), 0, 255).astype(np.uint8)
    again = (nearest.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return nearest.transpose(1, 2, 0) if np.array_equal(again, floats) else floats
