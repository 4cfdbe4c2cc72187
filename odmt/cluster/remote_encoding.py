"""Frozen encoders as tasks on a Ray cluster: titles and encoded pictures travel out, features travel back.

Nodes need neither the data set nor, for an encoder that is a folder, the folder: its files travel once through the
object store. A worker process keeps the encoder it has loaded. One process, the driver, writes what comes back.
"""

import dataclasses
import json
import tempfile
from collections import deque
from collections.abc import Generator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from odmt.cluster.connect import num_cpus, num_gpus
from odmt.config import ImageEncoderConfig, PrepareConfig, TextEncoderConfig, from_mapping, to_mapping
from odmt.errors import DataError, FeatureStoreError, OdmtError
from odmt.features.encoding import Inputs, chosen_precision
from odmt.features.images import IMAGES_FILE, encoded_pictures
from odmt.features.loading import Precision
from odmt.features.pictures import pixels
from odmt.features.records import RecordFile
from odmt.features.store import EncoderConfig, model_files, model_folder

GPU_SHARE = 0.25
"""GPUs a task: four decode pictures at once, so that the GPU does not wait for them."""
_TASKS_AHEAD = 2
"""Batches under way for each task that can run at once."""


class _Orders(NamedTuple):
    """Which encoder a task is to load."""

    is_text: bool
    config: str
    precision: Precision
    device: str


class RemoteEncoding:
    """An encoder in tasks of the Ray that this process is connected to."""

    def __init__(self, config: EncoderConfig, inputs: Inputs, settings: PrepareConfig) -> None:
        """Load the encoder in one task, to learn its shape.

        Args:
            config: which encoder.
            inputs: what it reads; read here, not on the nodes.
            settings: precision.

        Raises:
            DataError: the encoder cannot be loaded.
            ConfigError: its settings do not fit it.
        """
        device = "cuda" if num_gpus() else "cpu"
        self._is_text = isinstance(config, TextEncoderConfig)
        self.precision = chosen_precision(settings.precision, device)
        self._orders = _Orders(self._is_text, json.dumps(to_mapping(config)), self.precision, device)
        self._inputs = inputs
        folder = model_folder(config, inputs.dataset_folder)
        files = {path.name: path.read_bytes() for path in model_files(folder)} if folder else None
        self._files = [ray.put(files)] if files is not None else []
        # max_calls 0: by itself Ray ends a GPU task's process after each call, and the encoder with it.
        options = {"num_cpus": 1, "num_gpus": GPU_SHARE if device == "cuda" else 0, "max_calls": 0, "max_retries": -1}
        self._encode = ray.remote(**options)(_encode_titles if self._is_text else _encode_pictures)
        self._describe, self._count = ray.remote(**options)(_describe), ray.remote(**options)(_count_tokens)
        self._at_once = max(1, int(num_gpus() / GPU_SHARE if device == "cuda" else num_cpus()))
        self.width, self.max_tokens, self.commit, self._image_size = self._get(self._describe)
        self.where = f"Ray, up to {self._at_once} tasks at once"

    def count_tokens(self, items: Sequence[str]) -> int:
        """Return how many tokens some items have together; titles are looked at in one task."""
        if not self._is_text:
            return len(items) * self.max_tokens
        return int(self._get(self._count, [self._inputs.titles[item] for item in items]))

    def run(self, batches: Sequence[list[str]]) -> Generator[list[np.ndarray], None, None]:
        """Yield the features of each batch, in order; a lost node's batches are computed elsewhere."""
        under_way: deque[Any] = deque()
        for items in batches:
            if self._is_text:
                titles = [self._inputs.titles[item] for item in items]
                call = self._encode.remote(self._orders, self._files, titles)
            else:
                digests = [self._inputs.digests[item] for item in items]
                pictures = self._pictures(items)
                call = self._encode.remote(self._orders, self._files, items, pictures, digests, self._image_size)
            under_way.append(call)
            if len(under_way) >= _TASKS_AHEAD * self._at_once:
                yield _get(under_way.popleft())
        while under_way:
            yield _get(under_way.popleft())

    def _get(self, task: Any, *arguments: Any) -> Any:
        return _get(task.remote(self._orders, self._files, *arguments))

    def _pictures(self, items: Sequence[str]) -> list[bytes]:
        path = self._inputs.dataset_folder / IMAGES_FILE
        with RecordFile(path) as store, store.view() as view:
            return encoded_pictures(view, path, items, self._inputs.digests)


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, OdmtError) else error) from error


@lru_cache(maxsize=1)
def _loaded(orders: _Orders, files: Any) -> Any:
    from odmt.features.encoders import load_encoder

    kind = TextEncoderConfig if orders.is_text else ImageEncoderConfig
    config: Any = from_mapping(kind, json.loads(orders.config), "features")
    if files is None:
        return load_encoder(config, Path.cwd(), orders.device, orders.precision)
    with tempfile.TemporaryDirectory(prefix="odmt-encoder-") as folder:
        for name, content in ray.get(files).items():
            (Path(folder) / name).write_bytes(content)
        here = dataclasses.replace(config, model=folder)
        return load_encoder(here, Path(folder), orders.device, orders.precision)


def _encoder(orders: _Orders, files: list[Any]) -> Any:
    return _loaded(orders, files[0] if files else None)


def _describe(orders: _Orders, files: list[Any]) -> tuple[int, int, str | None, int]:
    encoder = _encoder(orders, files)
    return encoder.width, encoder.max_tokens, encoder.commit, getattr(encoder, "image_size", 0)


def _count_tokens(orders: _Orders, files: list[Any], titles: list[str]) -> int:
    return int(_encoder(orders, files).count_tokens(titles).sum())


def _encode_titles(orders: _Orders, files: list[Any], titles: list[str]) -> list[np.ndarray]:
    features: list[np.ndarray] = _encoder(orders, files).encode(titles)
    return features


def _encode_pictures(
    orders: _Orders, files: list[Any], items: list[str], contents: list[bytes], digests: list[bytes], image_size: int
) -> list[np.ndarray]:
    arrays = []
    for item, content in zip(items, contents, strict=True):
        try:
            arrays.append(pixels(content, image_size))
        except DataError as error:
            raise FeatureStoreError(f"picture of item {item!r} {error}") from error
    features: list[np.ndarray] = _encoder(orders, files).encode(arrays, digests)
    return features
