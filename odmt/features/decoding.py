"""Pictures of an image store decoded and resized ahead of the encoder, in worker processes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odmt.data.interactions import prepare_command
from odmt.errors import DataError, FeatureStoreError
from odmt.features.images import encoded_pictures
from odmt.features.pictures import pixels
from odmt.features.records import RecordFile
from odmt.features.workers import DIED, begin_worker, uninterrupted


def decoded_batches(
    path: Path, digests: Mapping[str, bytes], batches: Sequence[list[str]], image_size: int, workers: int
) -> Iterator[list[np.ndarray]]:
    """Yield the pixels of each batch's pictures, decoded ahead in worker processes.

    Args:
        path: of the image store.
        digests: of every item's picture: tells which are blank.
        batches: of item ids.
        image_size: pixels a side.
        workers: processes; 0 = this one.

    Raises:
        FeatureStoreError: an item has no picture in the store, or it no longer decodes.
        DataError: a worker died.
    """
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Pictures(path, digests, batches, image_size),  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        worker_init_fn=begin_worker if workers else None,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=2 if workers else None,
    )
    with uninterrupted():
        batches_ahead = iter(loader)
    try:
        for packed in batches_ahead:
            if isinstance(packed, str):
                raise FeatureStoreError(packed)
            yield packed.arrays()
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(DIED) from error


def _as_it_is(packed: object) -> object:
    return packed


class _Packed(NamedTuple):
    """A batch of pixels as two tensors, which travel between processes through shared memory.

    Attributes:
        order: which of both, and where in it, each picture is.
        whole: uint8 ``(n, size, size, 3)``.
        floats: float32 ``(m, 3, size, size)``.
    """

    order: list[tuple[bool, int]]
    whole: Any
    floats: Any

    def arrays(self) -> list[np.ndarray]:
        """Return the pictures one by one, without copying them."""
        whole, floats = self.whole.numpy(), self.floats.numpy()
        return [floats[place] if is_float else whole[place] for is_float, place in self.order]


class _Pictures:
    """A DataLoader's data set: batch ``n`` decoded and resized; what goes wrong comes back as a sentence."""

    def __init__(self, path: Path, digests: Mapping[str, bytes], batches: Sequence[list[str]], image_size: int) -> None:
        self._path, self._digests = path, digests
        self._batches, self._size = batches, image_size
        self._store: RecordFile | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> "_Packed | str":
        if number >= len(self._batches):
            raise IndexError(number)
        items = self._batches[number]
        try:
            if self._store is None:  # opened where it is read: in a worker
                self._store = RecordFile(self._path)
            with self._store.view() as view:
                contents = encoded_pictures(view, self._path, items, self._digests)
        except FeatureStoreError as error:
            return str(error)
        arrays = []
        for item, content in zip(items, contents, strict=True):
            try:
                arrays.append(pixels(content, self._size))
            except DataError as error:
                again = f"delete the file and run: {prepare_command(self._path.parent.name)}"
                return f"{self._path}: picture of item {item!r} {error}; {again}"
        return _packed(arrays, self._size)


def _packed(arrays: Sequence[np.ndarray], size: int) -> _Packed:
    import torch

    order: list[tuple[bool, int]] = []
    kinds: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for array in arrays:
        is_float = array.dtype != np.uint8
        order.append((is_float, len(kinds[is_float])))
        kinds[is_float].append(array)
    whole = np.stack(kinds[0]) if kinds[0] else np.empty((0, size, size, 3), np.uint8)
    floats = np.stack(kinds[1]) if kinds[1] else np.empty((0, 3, size, size), np.float32)
    return _Packed(order, torch.from_numpy(whole), torch.from_numpy(floats))
