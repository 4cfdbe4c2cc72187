"""Time, FLOPs and memory of what a benchmark runs."""

import gc
import platform
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


class Side(Protocol):
    """One of the two that are compared."""

    model: torch.nn.Module

    def step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """Take one optimiser step in the timed precision; return cross-entropy and distillation."""

    def float32_step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """Take one in float32."""


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object]) -> float:
    """Time a run until the device has finished."""
    synchronise()
    started = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - started


def machine(device: torch.device) -> dict[str, object]:
    """Say what the figures were taken on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"device": gpu or platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def flop_counter() -> FlopCounterMode:
    """Return a counter that knows a CPU's fused attention, too."""
    aten = torch.ops.aten
    fused = {
        aten._scaled_dot_product_flash_attention_for_cpu: _fused_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _fused_backward_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=fused)


def flops_of(run: Callable[[], object]) -> int:
    """Count a run's floating-point operations."""
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


class Counted(NamedTuple):
    """What one step needs; ``allocator_bytes`` on a GPU only."""

    flops: int
    activation_bytes: int
    allocator_bytes: int | None


def count(side: Side, slots_BS: np.ndarray) -> Counted:
    """Count a step's FLOPs and memory; the optimiser's state is there already."""
    side.model.zero_grad(set_to_none=True)
    on_gpu = next(side.model.parameters()).is_cuda
    allocator_bytes = None
    if on_gpu:
        synchronise()
        at_rest = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        side.step(slots_BS)
        synchronise()
        allocator_bytes = torch.cuda.max_memory_allocated() - at_rest
        side.model.zero_grad(set_to_none=True)
    counter = flop_counter()
    live = LiveStorages()
    with live, counter:
        side.step(slots_BS)
    gradients = [parameter.grad for parameter in side.model.parameters() if parameter.grad is not None]
    return Counted(counter.get_total_flops(), live.peak_bytes(without=gradients), allocator_bytes)


def _fused_flops(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _fused_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


class LiveStorages(TorchDispatchMode):
    """A log of the storages that operations make, from first sight to death.

    Whatever a tensor holds when the mode is made does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        gc.collect()
        alive = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        self._seen: dict[int, int | None] = {}
        self._watched: list[weakref.finalize[Any, Any]] = []
        self._log: list[tuple[int, int]] = []
        for tensor in alive:
            self._seen[tensor.untyped_storage()._cdata] = None
        self._at_rest = alive

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and look at what it read and made."""
        self._look(args)
        self._look(kwargs)
        result = func(*args, **(kwargs or {}))
        self._look(result)
        return result

    def _look(self, tree: Any) -> None:
        for leaf in tree_leaves(tree):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            if storage._cdata not in self._seen:
                number, size = len(self._watched), storage.nbytes()
                self._seen[storage._cdata] = number
                self._log.append((number, size))
                self._watched.append(weakref.finalize(storage, self._died, storage._cdata, number, size))

    def _died(self, address: int, number: int, size: int) -> None:
        self._log.append((number, -size))
        del self._seen[address]

    def peak_bytes(self, without: list[torch.Tensor]) -> int:
        """Return the most bytes alive at once, some tensors' storages left out; stop watching."""
        left_out = {self._seen.get(tensor.untyped_storage()._cdata) for tensor in without}
        for watched in self._watched:
            watched.detach()
        live = peak = 0
        for number, change in self._log:
            if number not in left_out:
                live += change
                peak = max(peak, live)
        return peak
