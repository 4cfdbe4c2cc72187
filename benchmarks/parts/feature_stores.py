"""The same made features in a store of ours, and in an LMDB of pickled values as the authors keep their pictures."""

import os
import pickle
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np

from odmt.config import TextEncoderConfig
from odmt.data.interactions import Catalogue, Interactions, read_catalogue, write_dataset
from odmt.features.extract import fill_store
from odmt.features.store import encoder_spec, feature_store_path, source_digests
from odmt.home import Home

DATASET = "bench"
ENCODER = TextEncoderConfig(model="bench")
_PATTERNS = 64
_WRITES_A_COMMIT = 512


class MadeFeatures:
    """An encoder that gives made features: one of 64 random blocks an item, its own number in the first place."""

    commit, precision, where = None, "fp32", "nowhere"

    def __init__(self, tokens: int, width: int) -> None:
        rng = np.random.default_rng(0)
        self.max_tokens, self.width = tokens, width
        self._blocks = rng.standard_normal((_PATTERNS, tokens, width), dtype=np.float32).astype(np.float16)

    def of(self, item: str) -> np.ndarray:
        """Return an item's features, float16."""
        number = int(item[1:])
        block = self._blocks[number % _PATTERNS].copy()
        block[0, 0] = number % 2048  # float16 holds these exactly
        return block

    def count_tokens(self, items: list[str]) -> int:
        """Return how many tokens some items have together."""
        return len(items) * self.max_tokens

    def run(self, batches: list[list[str]]) -> Generator[list[np.ndarray], None, None]:
        """Yield the features of each batch."""
        for items in batches:
            yield [self.of(item) for item in items]


class Value:
    """What the authors pickle: raw bytes and a few attributes."""

    def __init__(self, values: np.ndarray, key: str) -> None:
        self.size = values.shape
        self.image = values.tobytes()
        self.id = key

    def get(self) -> np.ndarray:
        """Return the values."""
        return np.frombuffer(self.image, dtype=np.float16).reshape(self.size)


class Stores(NamedTuple):
    """Both stores, and the order in which the catalogue names the items: not that of the keys."""

    own: Path
    pickled: Path
    item_ids: list[str]
    num_bytes: int


def write_data_set(home: Home, items: int) -> list[str]:
    """Write a data set whose catalogue is in an order of its own; return its items."""
    names = [f"i{number:06d}" for number in np.random.default_rng(1).permutation(items)]
    offsets = np.append(np.arange(0, items, 10), items)
    users = [f"u{number}" for number in range(len(offsets) - 1)]
    rows = np.arange(items, dtype=np.int32)
    write_dataset(home.dataset(DATASET), Interactions(users, offsets, rows), Catalogue(names, names))
    return names


def write_own(home: Home, made: MadeFeatures) -> Path:
    """Fill our store with made features."""
    catalogue = read_catalogue(home.dataset(DATASET))
    path = feature_store_path(home, DATASET, ENCODER)
    wanted = dict(sorted(source_digests(home, DATASET, ENCODER, catalogue).items()))
    what = {"encoder": encoder_spec(ENCODER, home.dataset(DATASET)), "model": ENCODER.model}
    fill_store(path, what, wanted, lambda: made, "our store", 64)
    return path


def write_pickled(path: Path, names: list[str], made: MadeFeatures) -> Path:
    """Fill an LMDB as the authors do: one pickled object an item."""
    size = 2 * len(names) * (made.max_tokens * made.width * 2 + 8192)
    environment = lmdb.open(str(path), subdir=False, map_size=size, meminit=False)
    for start in range(0, len(names), _WRITES_A_COMMIT):
        with environment.begin(write=True) as transaction:
            for name in names[start : start + _WRITES_A_COMMIT]:
                transaction.put(name.encode(), pickle.dumps(Value(made.of(name), name)))
    environment.close()
    return path


def write_both(root: Path, items: int, tokens: int, width: int) -> Stores:
    """Write the same features to both stores."""
    home, made = Home(root), MadeFeatures(tokens, width)
    names = write_data_set(home, items)
    own = write_own(home, made)
    return Stores(own, write_pickled(root / "pickled.lmdb", names, made), names, items * tokens * width * 2)


def load_pickled(path: Path, names: list[str], tokens: int, width: int) -> np.ndarray:
    """Load all values one by one, the environment opened anew for each, as the authors do."""
    whole = np.empty((len(names), tokens, width), dtype=np.float16)
    for place, name in enumerate(names):
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
        with environment.begin() as transaction:
            value = pickle.loads(transaction.get(name.encode()))
        environment.close()  # the authors leave it open; this binding refuses a second opening
        whole[place] = value.get()
    return whole


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(path: Path) -> None:
    """Read a file from end to end in blocks of 1 MiB, keeping none: what its disk can do."""
    with open(path, "rb", buffering=0) as file:
        block = bytearray(2**20)
        while file.readinto(block):
            pass


def read_into_array(path: Path) -> np.ndarray:
    """Read a file from end to end into one new array: what the disk and fresh memory can do together."""
    whole = np.empty(path.stat().st_size, dtype=np.uint8)
    place = 0
    with open(path, "rb", buffering=0) as file, memoryview(whole) as view:
        while count := file.readinto(view[place : place + 2**20]):
            place += count
    return whole
