"""A training step against the authors' algorithm: time, arithmetic, memory.

From batch ids to after ``optimizer.step()``, gather included; both sides in one process, alternating, medians of
several rounds after a warm-up. Before anything is timed, a step of each side from the same weights without dropout, in
float32, must give the same losses within 1e-4. Needs torch and numpy alone. The last line is one JSON object.

The data are made: 20,000 items of popularity 1/rank, 20,000 users with 5 to 13 training items (mean about 7, none twice
in a user), 2 to 30 text tokens an item (mean about 18), 50 image tokens; features as wide as the model. Two batches
are timed: ``popular``, the first users of that data, and ``distinct``, as many slots without any repeat. Of the
20,000 items only those in the timed batches have features, on both sides: 2.5 GB of them change nothing in a step.
Both sides hold float16 and gather float32.

FLOPs are those of ``torch.utils.flop_counter``, forward and backward (fused attention on a CPU, which it does not
know, is added by its own formula). Activation memory is the peak, over a whole step, of live storages that the step
itself made, gradients excepted: a dispatch mode logs every storage that an operation reads or writes when it is first
seen and when it dies; what lived before the step (parameters, optimiser state, features) and what is a parameter's
gradient at the end is left out. The gathered float32 features of the batch are counted; scratch memory inside a kernel
is not. On a GPU the allocator's own peak above what it held before the step is printed too; it has the gradients in.
"""

import argparse
import dataclasses
import gc
import importlib.util
import json
import platform
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

MAX_SEQ_LEN = 12
TEXT_TOKENS = (2, 22, 30)
"""Least, most frequent and most text tokens of an item; mean 18."""
IMAGE_TOKENS = 50
TEMPERATURE, KD_WEIGHT, LEARNING_RATE, WEIGHT_DECAY, GRAD_CLIP, DROPOUT = 0.3, 1.0, 1e-4, 0.1, 5.0, 0.1
LOSS_TOLERANCE = 1e-4


class Workload(NamedTuple):
    """Made data.

    Attributes:
        offsets: int64 ``(users + 1,)`` into ``items``.
        items: int32, of each user the training items, and one more that validation would take.
        batches: timed batches by name, int64 ``(B, S)``, left padded with 0.
        item_rows: int32 ``(num_items,)``, feature row of id ``i + 1``; 0 for items without features.
        tokens: float16 features of all rows by modality, joined: ``(total tokens, width)``.
        token_offsets: int64 ``(rows + 1,)`` by modality.
        unique_share: mean share of distinct items among the real slots of an epoch's batches.
    """

    offsets: np.ndarray
    items: np.ndarray
    batches: dict[str, np.ndarray]
    item_rows: np.ndarray
    tokens: dict[str, np.ndarray]
    token_offsets: dict[str, np.ndarray]
    unique_share: float


class Side(Protocol):
    """One of the two that are compared."""

    model: torch.nn.Module

    def step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """Take one optimiser step in the timed precision; return cross-entropy and distillation."""

    def float32_step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """Take one in float32."""


def main() -> int:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    print(f"torch {torch.__version__}, {gpu or f'{torch.get_num_threads()} CPU threads'}, {arguments.precision}")
    widths = {width: measure_width(width, device, arguments) for width in arguments.width}
    result = {
        "benchmark": "train_step",
        "device": gpu or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": arguments.precision,
        "batch": arguments.batch,
        "seed": arguments.seed,
        "widths": widths,
        "ratio": widths[arguments.width[0]][arguments.batches[0]]["ratio"],
    }
    print(json.dumps(result))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, nargs="+", default=[768, 128])
    parser.add_argument("--batch", type=int, help="users; default 128 on a GPU, 32 elsewhere")
    parser.add_argument("--batches", nargs="+", choices=["popular", "distinct"], default=["popular", "distinct"])
    parser.add_argument("--rounds", type=int, help="default 5, or 15 where the width is below 512 or on a GPU")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default bf16 on a GPU, fp32 elsewhere")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="the GPU's, for its utilisation (H100 bf16)")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    on_gpu = torch.device(arguments.device).type == "cuda"
    arguments.batch = arguments.batch or (128 if on_gpu else 32)
    arguments.precision = arguments.precision or ("bf16" if on_gpu else "fp32")
    if arguments.smoke:
        arguments.width, arguments.batch, arguments.rounds = [16], 4, 1
        arguments.items, arguments.users = 300, 60
    return arguments


def measure_width(width: int, device: torch.device, arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Compare both sides at one width, on every batch."""
    workload = make_workload(width, arguments.items, arguments.users, arguments.batch, arguments.seed)
    print(
        f"\nD = {width}, {arguments.batch} users a batch; an epoch of {arguments.users} users: "
        f"{-(-arguments.users // arguments.batch)} steps, {workload.unique_share:.1%} of its slots distinct in a batch"
    )
    rounds = arguments.rounds or (5 if width >= 512 and device.type == "cpu" else 15)
    torch.manual_seed(arguments.seed)
    ours = Ours(workload, width, device, arguments.precision)
    theirs = Theirs(workload, width, device, arguments.precision)
    theirs.model.load_ours(ours.model.state_dict())
    compare_losses(ours, theirs, workload.batches["popular"])
    sides: dict[str, Side] = {"authors": theirs, "ours": ours}
    steps = -(-arguments.users // arguments.batch)
    peak_flops = arguments.peak_tflops * 1e12 if device.type == "cuda" else None
    return {
        name: measure_batch(name, workload.batches[name], sides, rounds, steps, peak_flops)
        for name in arguments.batches
    }


def compare_losses(ours: Side, theirs: Side, slots_BS: np.ndarray) -> None:
    """Take a step of each side without dropout and require equal losses."""
    for side in (ours, theirs):
        side.model.eval()
    found, expected = ours.float32_step(slots_BS), theirs.float32_step(slots_BS)
    for side in (ours, theirs):
        side.model.train()
    print(f"first losses (ce, kd): ours {found[0]:.6f}, {found[1]:.6f}; authors {expected[0]:.6f}, {expected[1]:.6f}")
    if not np.allclose(found, expected, rtol=0, atol=LOSS_TOLERANCE):
        sys.exit(f"error: the two sides' losses differ by more than {LOSS_TOLERANCE}")


def measure_batch(
    name: str, slots_BS: np.ndarray, sides: dict[str, Side], rounds: int, steps: int, peak_flops: float | None
) -> dict[str, object]:
    """Count and time one batch; print what was found."""
    real = slots_BS[slots_BS != 0]
    unique = len(np.unique(real))
    print(f"{name} batch: {unique} distinct items in {len(real)} real of {slots_BS.size} slots; {rounds} rounds")
    counted = {side: count(of, slots_BS) for side, of in sides.items()}
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, of in sides.items():
            taken[side].append(seconds_of(of, slots_BS))
    seconds = {side: statistics.median(values) for side, values in taken.items()}
    for side, found in counted.items():
        line = (
            f"  {side:8s} {seconds[side] * 1e3:10.1f} ms a step ({min(taken[side]) * 1e3:.1f} to "
            f"{max(taken[side]) * 1e3:.1f}), {seconds[side] * steps:9.1f} s an epoch, "
            f"{found.flops / 1e9:9.1f} GFLOP, {found.activation_bytes / 2**20:8.1f} MB of activations"
        )
        if found.allocator_bytes is not None:
            line += f" ({found.allocator_bytes / 2**20:.1f} MB above rest in the allocator)"
        if peak_flops:
            line += f", utilisation {found.flops / seconds[side] / peak_flops:.1%}"
        print(line)
    ratio = seconds["authors"] / seconds["ours"]
    flop_ratio = counted["authors"].flops / counted["ours"].flops
    memory_ratio = counted["ours"].activation_bytes / counted["authors"].activation_bytes
    print(
        f"  time ratio {ratio:.2f}, FLOP ratio {flop_ratio:.2f} ({ratio / flop_ratio:.0%} of it), "
        f"activation memory {memory_ratio:.3f} of the authors'"
    )
    return {
        "ratio": ratio,
        "flop_ratio": flop_ratio,
        "share_of_flop_ratio": ratio / flop_ratio,
        "memory_share": memory_ratio,
        "unique": unique,
        "real_slots": len(real),
        "slots": int(slots_BS.size),
        "rounds": rounds,
        "seconds": seconds,
        "epoch_seconds": {side: steps * value for side, value in seconds.items()},
        "flops": {side: found.flops for side, found in counted.items()},
        "activation_megabytes": {side: found.activation_bytes / 2**20 for side, found in counted.items()},
        "allocator_megabytes": {
            side: None if found.allocator_bytes is None else found.allocator_bytes / 2**20
            for side, found in counted.items()
        },
        "utilisation": {
            side: found.flops / seconds[side] / peak_flops if peak_flops else None for side, found in counted.items()
        },
    }


def seconds_of(side: Side, slots_BS: np.ndarray) -> float:
    """Time one step."""
    synchronise()
    started = time.perf_counter()
    side.step(slots_BS)
    synchronise()
    return time.perf_counter() - started


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
    aten = torch.ops.aten
    fused = {
        aten._scaled_dot_product_flash_attention_for_cpu: _fused_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _fused_backward_flops,
    }
    counter = FlopCounterMode(display=False, custom_mapping=fused)
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


class Ours:
    """The trainer of the package, at the authors' settings."""

    def __init__(self, workload: Workload, width: int, device: torch.device, precision: str) -> None:
        from odmt.config import DistillConfig, TrainConfig
        from odmt.data.split import DevelopmentSplit
        from odmt.features.ragged import RaggedFeatures
        from odmt.training.batches import TrainingBatches
        from odmt.training.features import ItemFeatures
        from odmt.training.optim import make_optimizer
        from odmt.training.trainer import Step

        split = DevelopmentSplit(workload.item_rows, workload.offsets, workload.items, MAX_SEQ_LEN)
        text, image = (
            RaggedFeatures(workload.tokens[name], workload.token_offsets[name]) for name in ("text", "image")
        )
        features = ItemFeatures(workload.item_rows, text, image, device, width=width)
        self.batches = TrainingBatches(split, features, batch_size=1, seed=0)
        self.model = make_our_model(len(workload.item_rows), width).to(device)
        train = TrainConfig(
            learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, grad_clip=GRAD_CLIP, precision=precision
        )
        distill = DistillConfig(temperature=TEMPERATURE, weight=KD_WEIGHT, rampup_epochs=0.0)
        optimizer = make_optimizer(self.model.parameters(), train)
        self._timed = Step(self.model, optimizer, train, distill)
        self._exact = Step(self.model, optimizer, dataclasses.replace(train, precision="fp32"), distill)

    def step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """See ``Side``."""
        terms = self._timed([self.batches.batch([slots_BS])], 1)
        return terms["ce"], terms["kd"]

    def float32_step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """See ``Side``."""
        terms = self._exact([self.batches.batch([slots_BS])], 1)
        return terms["ce"], terms["kd"]


def make_our_model(num_items: int, width: int) -> Any:
    """Make the model at the authors' settings, 2 + 2 blocks of 2 heads; its ID table starts at random."""
    from odmt.config import FusionConfig, ModelConfig, RunConfig, SequenceConfig
    from odmt.experiment.shape import empty_model

    config = RunConfig(
        model=ModelConfig(embedding_dim=width, id_init="random"),
        fusion=FusionConfig(num_layers=2, num_heads=2, dropout=DROPOUT, id_masking=True),
        sequence=SequenceConfig(num_layers=2, num_heads=2, dropout=DROPOUT),
    )
    return empty_model(config, num_items=num_items, text_dim=width, image_dim=width, id_dim=width)


class Theirs:
    """The authors' algorithm."""

    def __init__(self, workload: Workload, width: int, device: torch.device, precision: str) -> None:
        authors = load_authors()
        sizes = authors.Sizes(len(workload.item_rows), width, width, width, width, MAX_SEQ_LEN, dropout=DROPOUT)
        self._slot_tokens = authors.SlotTokens
        self.model = authors.Authors(sizes).to(device)
        self.device = device
        self.autocast = precision == "bf16"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        num_rows = len(workload.token_offsets["text"]) - 1
        longest = max(TEXT_TOKENS)
        text = np.zeros((num_rows + 1, longest, width), dtype=np.float16)
        mask = np.arange(longest) < np.append(np.diff(workload.token_offsets["text"]), 0)[:, None]
        text[mask] = workload.tokens["text"]
        image = np.zeros((num_rows + 1, IMAGE_TOKENS, width), dtype=np.float16)
        image[:-1] = workload.tokens["image"].reshape(num_rows, IMAGE_TOKENS, width)
        row_of_item = np.append(num_rows, workload.item_rows)  # padding has the last row: zeros
        self.text, self.text_mask, self.image, self.row_of_item, self.log_popularity = (
            torch.from_numpy(array).to(device)
            for array in (text, mask, image, row_of_item.astype(np.int64), log_popularity(workload))
        )

    def step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """See ``Side``."""
        return self._step(slots_BS, self.autocast)

    def float32_step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """See ``Side``."""
        return self._step(slots_BS, autocast=False)

    def _step(self, slots_BS: np.ndarray, autocast: bool) -> tuple[float, float]:
        slots = torch.from_numpy(slots_BS).to(self.device)
        rows = self.row_of_item[slots.flatten()]
        tokens = self._slot_tokens(self.text[rows].float(), self.text_mask[rows], self.image[rows].float())
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=autocast):
            terms = self.model(slots, tokens, self.log_popularity[slots], kd_weight=KD_WEIGHT, temperature=TEMPERATURE)
        terms.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        self.optimizer.step()
        return terms.ce.item(), terms.kd.item()


def load_authors() -> Any:
    """Import ``authors.py``, which stands beside this file."""
    spec = importlib.util.spec_from_file_location("authors", Path(__file__).with_name("authors.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_workload(width: int, num_items: int, num_users: int, batch: int, seed: int) -> Workload:
    """Make the data of the docstring; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    odds = 0.7 ** np.arange(MAX_SEQ_LEN + 2 - 5)
    lengths = 5 + rng.choice(len(odds), size=num_users, p=odds / odds.sum())
    weights = 1 / np.arange(1, num_items + 1)
    identity = rng.permutation(num_items) + 1
    draws = identity[rng.choice(num_items, size=(num_users, 64), p=weights / weights.sum())]
    sequences = [_first_distinct(row, length + 1) for row, length in zip(draws, lengths, strict=True)]
    lengths = np.array([len(sequence) - 1 for sequence in sequences])
    windows = np.zeros((num_users, MAX_SEQ_LEN + 1), dtype=np.int64)
    for window, sequence in zip(windows, sequences, strict=True):
        window[MAX_SEQ_LEN + 2 - len(sequence) :] = sequence[:-1]
    popular = windows[:batch]
    distinct = np.zeros_like(popular)
    trained = rng.permutation(np.setdiff1d(windows, [0]))
    distinct[popular != 0] = trained[: (popular != 0).sum()]
    used = np.setdiff1d(np.concatenate([popular, distinct]), [0])
    item_rows = np.zeros(num_items, dtype=np.int32)
    item_rows[used - 1] = np.arange(len(used))
    num_tokens = {
        "text": np.rint(rng.triangular(*TEXT_TOKENS, size=len(used))).astype(np.int64),
        "image": np.full(len(used), IMAGE_TOKENS),
    }
    tokens = {
        name: rng.standard_normal((counts.sum(), width), dtype=np.float32).astype(np.float16)
        for name, counts in num_tokens.items()
    }
    parts = [windows[start : start + batch] for start in range(0, num_users - batch + 1, batch)]
    shares = [len(np.unique(part[part != 0])) / (part != 0).sum() for part in parts]
    return Workload(
        offsets=np.append(0, np.cumsum(lengths + 1)),
        items=np.concatenate(sequences).astype(np.int32),
        batches={"popular": popular, "distinct": distinct},
        item_rows=item_rows,
        tokens=tokens,
        token_offsets={name: np.append(0, np.cumsum(counts)) for name, counts in num_tokens.items()},
        unique_share=float(np.mean(shares)),
    )


def _first_distinct(draws: np.ndarray, count: int) -> np.ndarray:
    _, first = np.unique(draws, return_index=True)
    return draws[np.sort(first)[:count]]


def log_popularity(workload: Workload) -> np.ndarray:
    """Log of every item's share of the training items, float32 ``(num_items + 1,)``; padding has 0."""
    training = np.ones(len(workload.items), dtype=bool)
    training[workload.offsets[1:] - 1] = False
    counts = np.bincount(workload.items[training], minlength=len(workload.item_rows) + 1)[1:]
    with np.errstate(divide="ignore"):
        return np.log(np.append(1.0, counts / counts.sum())).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
