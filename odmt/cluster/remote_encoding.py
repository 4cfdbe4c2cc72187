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
from odmt.cluster.task_errors import cause_of
from odmt.config import ImageEncoderConfig, PrepareConfig, TextEncoderConfig, from_mapping, to_mapping
from odmt.data.interactions import prepare_command
from odmt.errors import DataError, FeatureStoreError, ServiceError
from odmt.features.encoding import Inputs, chosen_precision, within_memory
from odmt.features.images import IMAGES_FILE, encoded_pictures
from odmt.features.loading import Precision
from odmt.features.pictures import pixels
from odmt.features.records import RecordFile
from odmt.features.store import EncoderConfig, model_files, model_folder

GPU_SHARE = 0.25
"""GPUs a task: four decode pictures at once, so that the GPU does not wait for them."""
_TASKS_AHEAD = 2
"""Batches under way for each task that can run at once."""
_RETRIES = 3
"""Further tries of a task whose process or node was lost: a batch that kills every process must end.

Those that Ray's memory monitor ends are counted apart (``RAY_task_oom_retries``, which ``connect`` sets).
"""
_SMALLER = "run the same command again with smaller batches (--set prepare.batch_size=16), or without --where attach"

_LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)


class _Orders(NamedTuple):
    """Which encoder a task is to load."""

    is_text: bool
    config: str
    dataset_folder: str
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
        self._orders = _Orders(
            self._is_text, json.dumps(to_mapping(config)), str(inputs.dataset_folder), self.precision, device
        )
        self._inputs = inputs
        folder = model_folder(config, inputs.dataset_folder)
        files = {path.name: path.read_bytes() for path in model_files(folder)} if folder else None
        self._files = [ray.put(files)] if files is not None else []
        # max_calls 0: by itself Ray ends a GPU task's process after each call, and the encoder with it.
        options = {
            "num_cpus": 1, "num_gpus": GPU_SHARE if device == "cuda" else 0, "max_calls": 0, "max_retries": _RETRIES
        }  # fmt: skip
        self._encode = ray.remote(**options)(_encode_titles if self._is_text else _encode_pictures)
        describe, self._count = ray.remote(**options)(_describe), ray.remote(**options)(_count_tokens)
        self._at_once = max(1, int(num_gpus() / GPU_SHARE if device == "cuda" else num_cpus()))
        loading = f"that loads {config.model}"
        self.width, self.max_tokens, self.commit, self._image_size = self._get(loading, describe)
        if self.commit:  # a branch of the hub may move on meanwhile: all tasks get the same commit
            same = dataclasses.replace(config, revision=self.commit)
            self._orders = self._orders._replace(config=json.dumps(to_mapping(same)))
        self.where = f"Ray, up to {self._at_once} tasks at once"

    def count_tokens(self, items: Sequence[str]) -> int:
        """Return how many tokens some items have together; titles are looked at in one task."""
        if not self._is_text:
            return len(items) * self.max_tokens
        titles = [self._inputs.titles[item] for item in items]
        return int(self._get("that counts tokens", self._count, titles))

    def run(self, batches: Sequence[list[str]]) -> Generator[list[np.ndarray], None, None]:
        """Yield the features of each batch, in order; a lost node's batches are computed elsewhere."""
        under_way: deque[tuple[str, Any]] = deque()
        for items in batches:
            if self._is_text:
                titles = [self._inputs.titles[item] for item in items]
                call = self._encode.remote(self._orders, self._files, titles)
            else:
                digests = [self._inputs.digests[item] for item in items]
                pictures = self._pictures(items)
                call = self._encode.remote(self._orders, self._files, items, pictures, digests, self._image_size)
            under_way.append((f"that encodes the batch from item {items[0]!r} on", call))
            if len(under_way) >= _TASKS_AHEAD * self._at_once:
                yield _get(*under_way.popleft())
        while under_way:
            yield _get(*under_way.popleft())

    def _get(self, what: str, task: Any, *arguments: Any) -> Any:
        return _get(what, task.remote(self._orders, self._files, *arguments))

    def _pictures(self, items: Sequence[str]) -> list[bytes]:
        path = self._inputs.dataset_folder / IMAGES_FILE
        with RecordFile(path) as store, store.view() as view:
            return encoded_pictures(view, path, items, self._inputs.digests)


def _get(what: str, reference: Any) -> Any:
    """Wait for a task's result.

    Args:
        what: the task, for the sentence: it continues "the task".
        reference: to its result.

    Raises:
        OdmtError: what the task raised.
        DataError: its process or node was lost, and so was every further try.
        ServiceError: Ray could not run it.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise cause_of(error) from error
    except _LOST as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the task {what} was lost with its process or node, and so were its further tries ({reason}), "
            f"perhaps for want of memory; what is done is kept: {_SMALLER}"
        ) from error
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ServiceError(
            f"Ray could not run the task {what} ({reason}); what is done is kept: run the same command again, or "
            "without --where attach"
        ) from error


@lru_cache(maxsize=1)
def _loaded(orders: _Orders, files: Any) -> Any:
    from odmt.features.encoders import load_encoder

    kind = TextEncoderConfig if orders.is_text else ImageEncoderConfig
    config: Any = from_mapping(kind, json.loads(orders.config), "features")
    dataset_folder = Path(orders.dataset_folder)
    if files is None:
        return load_encoder(config, dataset_folder, orders.device, orders.precision)
    with tempfile.TemporaryDirectory(prefix="odmt-encoder-") as folder:
        for name, content in ray.get(files).items():
            (Path(folder) / name).write_bytes(content)
        return load_encoder(config, dataset_folder, orders.device, orders.precision, Path(folder))


def _encoder(orders: _Orders, files: list[Any]) -> Any:
    return _loaded(orders, files[0] if files else None)


def _describe(orders: _Orders, files: list[Any]) -> tuple[int, int, str | None, int]:
    encoder = _encoder(orders, files)
    return encoder.width, encoder.max_tokens, encoder.commit, getattr(encoder, "image_size", 0)


def _count_tokens(orders: _Orders, files: list[Any], titles: list[str]) -> int:
    return int(_encoder(orders, files).count_tokens(titles).sum())


def _encode_titles(orders: _Orders, files: list[Any], titles: list[str]) -> list[np.ndarray]:
    return within_memory(lambda encoder: encoder.encode(titles), _encoder(orders, files))


def _encode_pictures(
    orders: _Orders, files: list[Any], items: list[str], contents: list[bytes], digests: list[bytes], image_size: int
) -> list[np.ndarray]:
    arrays = []
    for item, content in zip(items, contents, strict=True):
        try:
            arrays.append(pixels(content, image_size))
        except DataError as error:
            path = Path(orders.dataset_folder) / IMAGES_FILE
            again = f"delete the file and run: {prepare_command(path.parent.name)}"
            raise FeatureStoreError(f"{path}: picture of item {item!r} {error}; {again}") from error
    return within_memory(lambda encoder: encoder.encode(arrays, digests), _encoder(orders, files))
