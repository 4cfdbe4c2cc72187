"""Token features of a whole catalogue as two arrays, without padding."""

from typing import NamedTuple

import numpy as np


class RaggedFeatures(NamedTuple):
    """Tokens of all catalogue rows, joined.

    Attributes:
        tokens: float16 ``(total tokens, D)``; may be a read-only view into shared memory.
        offsets: int64 ``(rows + 1,)``; row ``r`` owns ``tokens[offsets[r]:offsets[r + 1]]``.
    """

    tokens: np.ndarray
    offsets: np.ndarray

    @property
    def width(self) -> int:
        """Features a token, D."""
        return int(self.tokens.shape[1])

    @property
    def num_rows(self) -> int:
        """Catalogue rows, those without features included."""
        return len(self.offsets) - 1

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copy the tokens of some rows, padded to the longest of them.

        Always a copy: the tokens may be shared between processes, and a write to them would change every
        trial's features.

        Args:
            rows: int ``(M,)`` catalogue rows.

        Returns:
            float32 ``(M, T, D)`` with zeros at padding, and bool ``(M, T)``, True at real tokens; T >= 1.
        """
        starts = self.offsets[rows]
        lengths = self.offsets[np.asarray(rows) + 1] - starts
        longest = max(1, int(lengths.max(initial=0)))
        mask = np.arange(longest) < lengths[:, None]
        source = (starts[:, None] + np.arange(longest))[mask]
        padded = np.zeros((len(lengths), longest, self.width), dtype=np.float32)
        padded[mask] = self.tokens[source]
        return padded, mask

    def summary(self, rows: np.ndarray) -> np.ndarray:
        """Copy the first token of some rows.

        Returns:
            float32 ``(M, D)``.

        Raises:
            IndexError: a row has no token.
        """
        rows = np.asarray(rows)
        starts = self.offsets[rows]
        empty = np.flatnonzero(self.offsets[rows + 1] == starts)
        if len(empty):
            raise IndexError(f"catalogue row {int(rows[empty[0]])} has no token")
        return self.tokens[starts].astype(np.float32)
