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
