"""Packed sequences: only the real positions of a batch are stored, one row each.

Shape letters, used as name suffixes in this file:
    B users, R rows (real positions of all users, user by user), P longest sequence of the batch, D width
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SequenceLayout(NamedTuple):
    """Where the rows of packed sequences stand.

    Padded to a rectangle the rows stand at the LEFT (a user's first row in column 0), so that a causal encoder needs no
    mask: what follows a user's last step is never read by a real one.

    Attributes:
        user: int64 ``(R,)``, rising.
        position: int64 ``(R,)``, place in the left-padded window of ``max_seq_len`` slots from 0.
        cell: int64 ``(R,)``, place in the flattened rectangle: user x P + place in the user's own sequence.
        last: int64 ``(B,)``, row of each user's last position; for a user without rows that of the user before, or -1.
        num_users: B.
        longest: P, at least 1.
    """

    user: Tensor
    position: Tensor
    cell: Tensor
    last: Tensor
    num_users: int
    longest: int

    @classmethod
    def of(cls, real_BL: Tensor) -> "SequenceLayout":
        """Lay out left-padded sequences.

        Args:
            real_BL: bool, True at real positions; in every row all padding comes first.
        """
        lengths_B = real_BL.sum(dim=1)
        user_R, position_R = real_BL.nonzero(as_tuple=True)
        ends_B = lengths_B.cumsum(0)
        step_R = torch.arange(len(user_R), device=real_BL.device) - (ends_B - lengths_B)[user_R]
        longest = max(1, int(lengths_B.max())) if len(lengths_B) else 1
        return cls(user_R, position_R, user_R * longest + step_R, ends_B - 1, len(lengths_B), longest)

    @property
    def is_full(self) -> bool:
        """Whether the rectangle holds no padding."""
        return len(self.user) == self.num_users * self.longest

    def last_rows(self) -> Tensor:
        """Return the row of each user's last step, int64 ``(B,)``; waits for the device.

        Raises:
            ValueError: a user has no rows.
        """
        empty = self.num_users - len(torch.unique_consecutive(self.user))
        if empty:
            raise ValueError(
                f"{empty} of {self.num_users} users have no items: there is no last position to take a state from"
            )
        return self.last

    def pad(self, rows_RD: Tensor) -> Tensor:
        """Spread rows over a rectangle with zeros at padding: ``(B, P, D)``."""
        shape = (self.num_users, self.longest, rows_RD.shape[1])
        if self.is_full:
            return rows_RD.view(shape)
        flat = rows_RD.new_zeros(shape[0] * shape[1], shape[2])
        return flat.index_copy(0, self.cell, rows_RD).view(shape)

    def pack(self, padded_BPD: Tensor) -> Tensor:
        """Take the rows back out of a rectangle: ``(R, D)``."""
        flat = padded_BPD.flatten(0, 1)
        return flat if self.is_full else flat.index_select(0, self.cell)
