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
import json
import statistics
import sys

import numpy as np
import torch
from parts.accounting import Counted, Side, count, machine, seconds_of, synchronise
from parts.sides import Ours, Theirs
from parts.workload import make_workload

LOSS_TOLERANCE = 1e-4


def main() -> int:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    on = machine(device)
    print(f"torch {on['torch']}, {on['device']}, {on['threads']} CPU threads, {arguments.precision}")
    widths = {width: measure_width(width, device, arguments) for width in arguments.width}
    result = {
        "benchmark": "train_step",
        **on,
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
    parser.add_argument("--profile", action="store_true", help="print where the time of one of our steps goes")
    parser.add_argument("--compile", action="store_true", help="let torch.compile have our item encoder")
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
    counted = {
        name: {side: count(of, workload.batches[name]) for side, of in sides.items()} for name in arguments.batches
    }
    if arguments.compile:  # after counting: what is compiled is counted no more
        ours.model.item_encoder.compile(dynamic=True)
        for name in arguments.batches:
            ours.step(workload.batches[name])
    measured = {
        name: measure_batch(name, workload.batches[name], sides, counted[name], rounds, steps, peak_flops)
        for name in arguments.batches
    }
    if arguments.profile:
        print(where_the_time_goes(ours, workload.batches[arguments.batches[0]], device))
    return measured


def where_the_time_goes(side: Side, slots_BS: np.ndarray, device: torch.device) -> str:
    """Profile one step; return the costliest operations, by the GPU's time on a GPU."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        side.step(slots_BS)
        synchronise()
    table: str = profiled.key_averages().table(
        sort_by="self_cuda_time_total" if on_gpu else "self_cpu_time_total", row_limit=15, max_name_column_width=40
    )
    return table


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
    name: str,
    slots_BS: np.ndarray,
    sides: dict[str, Side],
    counted: dict[str, Counted],
    rounds: int,
    steps: int,
    peak_flops: float | None,
) -> dict[str, object]:
    """Time one batch; print what was found."""
    real = slots_BS[slots_BS != 0]
    unique = len(np.unique(real))
    print(f"{name} batch: {unique} distinct items in {len(real)} real of {slots_BS.size} slots; {rounds} rounds")
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, of in sides.items():
            taken[side].append(seconds_of(lambda of=of: of.step(slots_BS)))
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


if __name__ == "__main__":
    sys.exit(main())
