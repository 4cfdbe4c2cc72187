"""Token features of a whole catalogue without padding, in one piece or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class FeatureShard(NamedTuple):
    """Tokens of some catalogue rows, joined.

    Attributes:
        tokens: float16 ``(tokens, D)``; may be a read-only view into shared memory.
        offsets: int64 ``(rows + 1,)``; the shard's row ``i`` owns ``tokens[offsets[i]:offsets[i + 1]]``.
        rows: int32 ``(rows,)``, which rows of the catalogue these are.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class RaggedFeatures:
    """Tokens of all catalogue rows, in shards, and where each row's tokens stand; make it by ``joined`` or ``of``.

    Attributes:
        shards: at least one.
        lengths: int64 ``(rows,)``, tokens of each catalogue row; 0 = it has none.
        shard_numbers: int64 ``(rows,)``, the shard that holds a row; 0 for a row in none.
        starts: int64 ``(rows,)``, where a row's tokens begin in its shard.
    """

    shards: tuple[FeatureShard, ...]
    lengths: np.ndarray
    shard_numbers: np.ndarray
    starts: np.ndarray

    @classmethod
    def joined(cls, shards: Sequence[FeatureShard], num_rows: int) -> "RaggedFeatures":
        """Take shards as the features of a catalogue; nothing is copied, rows in no shard have no tokens.

        Args:
            shards: at least one, of one width.
            num_rows: rows of the catalogue.

        Raises:
            ValueError: a catalogue row is in two places.
        """
        rows = np.concatenate([shard.rows for shard in shards])
        if np.bincount(rows, minlength=1).max() > 1:
            raise ValueError(f"catalogue row {int(np.bincount(rows).argmax())} is in two places")
        lengths, numbers, starts = (np.zeros(num_rows, dtype=np.int64) for _ in range(3))
        for number, shard in enumerate(shards):
            lengths[shard.rows] = np.diff(shard.offsets)
            numbers[shard.rows] = number
            starts[shard.rows] = shard.offsets[:-1]
        return cls(tuple(shards), lengths, numbers, starts)

    @classmethod
    def of(cls, tokens: np.ndarray, offsets: np.ndarray) -> "RaggedFeatures":
        """Take one array as the features of a catalogue; row ``r`` owns ``tokens[offsets[r]:offsets[r + 1]]``."""
        num_rows = len(offsets) - 1
        return cls.joined([FeatureShard(tokens, offsets, np.arange(num_rows, dtype=np.int32))], num_rows)

    @property
    def width(self) -> int:
        """Features a token, D."""
        return int(self.shards[0].tokens.shape[1])

    @property
    def num_rows(self) -> int:
        """Catalogue rows, those without features included."""
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens."""
        return sum(shard.tokens.nbytes for shard in self.shards)

    def tokens_of(self, row: int) -> np.ndarray:
        """Return a catalogue row's tokens, ``(T, D)``, without copying them."""
        start = self.starts[row]
        tokens: np.ndarray = self.shards[self.shard_numbers[row]].tokens[start : start + self.lengths[row]]
        return tokens
