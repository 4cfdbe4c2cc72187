"""Encoders at work: pictures decoded in worker processes, batches on every visible GPU, results in order.

A batch is what the encoders see at once, and its result depends on nothing but itself.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from odmt.config import PrepareConfig, TextEncoderConfig
from odmt.errors import DataError
from odmt.features.decoding import decoded_batches
from odmt.features.images import IMAGES_FILE
from odmt.features.store import EncoderConfig
from odmt.features.workers import worker_count

if TYPE_CHECKING:
    from odmt.features.image_encoder import ImageEncoder
    from odmt.features.loading import Precision
    from odmt.features.text_encoder import TextEncoder

_AHEAD = 2
"""Batches under way at each GPU: one computed, one waiting. A CPU has one: a kill then costs no second batch."""


class Inputs(NamedTuple):
    """What encoders read.

    Attributes:
        dataset_folder: holds the image store, and encoders named ``./...``.
        titles: by item id.
        digests: of every item's title or picture.
    """

    dataset_folder: Path
    titles: Mapping[str, str]
    digests: Mapping[str, bytes]


class Encoding(Protocol):
    """A loaded encoder, wherever it runs.

    Attributes:
        width: D.
        max_tokens: largest possible T_i.
        commit: hub commit of the weights, None for a folder.
        precision: of the arithmetic.
        where: in words.
    """

    width: int
    max_tokens: int
    commit: str | None
    precision: "Precision"
    where: str

    def count_tokens(self, items: Sequence[str]) -> int:
        """Return how many tokens some items have together."""

    def run(self, batches: Sequence[list[str]]) -> Generator[list[np.ndarray], None, None]:
        """Yield the features of each batch, in order: float16 ``(T_i, D)`` of each item."""


OpenEncoding = Callable[[EncoderConfig, Inputs, PrepareConfig], Encoding]


def visible_devices() -> list[str]:
    """Return every visible GPU, or the CPU."""
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


def chosen_precision(asked: "Literal['auto'] | Precision", device: str) -> "Precision":
    """Return the arithmetic that ``auto`` means on a device."""
    if asked != "auto":
        return asked
    return "fp16" if device.startswith("cuda") else "fp32"


class LocalEncoding:
    """An encoder in this process, once a device."""

    def __init__(
        self, config: EncoderConfig, inputs: Inputs, settings: PrepareConfig, devices: Sequence[str] | None = None
    ) -> None:
        """Load the encoder onto every device.

        Args:
            config: which encoder.
            inputs: what it reads.
            settings: precision and processes.
            devices: as torch names them; None = every visible GPU, else the CPU.

        Raises:
            DataError: the encoder cannot be loaded.
            ConfigError: its settings do not fit it.
        """
        from odmt.features.encoders import load_encoder

        names = list(devices or visible_devices())
        self.precision = chosen_precision(settings.precision, names[0])
        first = load_encoder(config, inputs.dataset_folder, names[0], self.precision)
        # A branch of the hub may move on meanwhile: all devices get the same commit.
        same = dataclasses.replace(config, revision=first.commit) if first.commit else config
        others = [load_encoder(same, inputs.dataset_folder, name, self.precision) for name in names[1:]]
        self._encoders = [first, *others]
        self.width, self.max_tokens, self.commit = first.width, first.max_tokens, first.commit
        self._on_gpu = names[0].startswith("cuda")
        self.where = f"{len(names)} GPUs" if self._on_gpu else "the CPU"
        self._is_text = isinstance(config, TextEncoderConfig)
        self._inputs, self._settings = inputs, settings

    def count_tokens(self, items: Sequence[str]) -> int:
        """Return how many tokens some items have together; only titles are looked at."""
        if not self._is_text:
            return len(items) * self.max_tokens
        encoder: TextEncoder = self._encoders[0]  # type: ignore[assignment]
        return int(encoder.count_tokens([self._inputs.titles[item] for item in items]).sum())

    def run(self, batches: Sequence[list[str]]) -> Generator[list[np.ndarray], None, None]:
        """Yield the features of each batch, in order."""
        calls = self._text_calls(batches) if self._is_text else self._image_calls(batches)
        with ExitStack() as stack:
            lanes = [stack.enter_context(ThreadPoolExecutor(1)) for _ in self._encoders]
            under_way: deque[Future[list[np.ndarray]]] = deque()
            most = len(lanes) * (_AHEAD if self._on_gpu else 1)
            for number, call in enumerate(calls):
                lane = number % len(lanes)
                under_way.append(lanes[lane].submit(within_memory, call, self._encoders[lane]))
                if len(under_way) >= most:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

    def _text_calls(self, batches: Sequence[list[str]]) -> Iterator[Callable[[Any], list[np.ndarray]]]:
        for items in batches:
            yield partial(_encode_titles, [self._inputs.titles[item] for item in items])

    def _image_calls(self, batches: Sequence[list[str]]) -> Iterator[Callable[[Any], list[np.ndarray]]]:
        encoder: ImageEncoder = self._encoders[0]  # type: ignore[assignment]
        workers = worker_count(self._settings.workers, sum(map(len, batches)))
        path, digests = self._inputs.dataset_folder / IMAGES_FILE, self._inputs.digests
        decoded = decoded_batches(path, digests, batches, encoder.image_size, workers)
        for items, arrays in zip(batches, decoded, strict=True):
            yield partial(_encode_pixels, arrays, [self._inputs.digests[item] for item in items])


def within_memory(call: Callable[[Any], list[np.ndarray]], encoder: Any) -> list[np.ndarray]:
    """Call something with an encoder.

    Raises:
        DataError: the GPU's memory is too small for it; says what to do.
    """
    import torch

    try:
        return call(encoder)
    except torch.OutOfMemoryError as error:
        raise DataError(
            "the GPU's memory is too small for the encoder and its batches; what is done is kept: run the same command "
            "with smaller ones (--set prepare.batch_size=16)"
        ) from error


def _encode_titles(titles: list[str], encoder: "TextEncoder") -> list[np.ndarray]:
    return encoder.encode(titles)


def _encode_pixels(arrays: list[np.ndarray], digests: list[bytes], encoder: "ImageEncoder") -> list[np.ndarray]:
    return encoder.encode(arrays, digests)
