"""Rows of all processes as one tensor, with gradients back to the process that they came from.

Shape letters, used as name suffixes in this file:
    M rows of one process, D width
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_rows(rows_MD: Tensor, counts: Sequence[int]) -> Tensor:
    """Join the rows of all processes in rank order.

    Args:
        rows_MD: this process's rows.
        counts: how many rows each process has.

    Returns:
        ``(sum of counts, D)``. Its gradient is summed over processes and comes back to the process that owns the rows.
    """
    gathered: Tensor = _Gather.apply(rows_MD, tuple(counts))  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather of unequal parts, padded to the longest; its adjoint is a sum and a slice."""

    @staticmethod
    def forward(ctx: Any, rows_MD: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        longest = max(counts)
        padded = rows_MD.new_zeros(longest, rows_MD.shape[1])
        padded[: len(rows_MD)] = rows_MD
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)  # autograd may share it with other inputs
        dist.all_reduce(total)
        rank = dist.get_rank()
        start = sum(ctx.counts[:rank])
        return total[start : start + ctx.counts[rank]], None
