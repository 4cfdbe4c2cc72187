"""Full-ranking evaluation against the authors' algorithm: users per second, and arithmetic.

From the users' histories to every user's rank under four heads; both sides in one process, alternating, medians of
several rounds after a warm-up. Both get the same item table and the same sequence encoders; what the table itself costs
is printed apart, measured on some items and scaled to all. Before anything is timed both sides must agree on the
ranks, but for near ties that rounding decides. Needs torch and numpy alone. The last line is one JSON object.

The data are made: 20,000 items of popularity 1/rank; users with 5 to 13 items (mean about 7, none twice in a user), of
which the last is the target. Item vectors and weights are random: time does not depend on them.

FLOPs are those of ``torch.utils.flop_counter`` (fused attention on a CPU, which it does not know, is added by its own
formula).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from parts import authors_evaluation as authors
from parts.accounting import flops_of, machine, seconds_of

from odmt.data.split import Targets
from odmt.evaluation.evaluator import Evaluator
from odmt.model.items import ImtItems, ItemShape, ItemTokens
from odmt.model.recommender import SequentialRecommender
from odmt.model.sequence import SasRec

MAX_SEQ_LEN, NUM_BLOCKS, NUM_HEADS = 12, 2, 2
TEXT_TOKENS, IMAGE_TOKENS = (2, 18, 30), 50
"""Least, mean and most text tokens of an item; image tokens."""
NEAR_TIES = 5
"""How far two ranks of one user may be apart: scores that differ by rounding only may change places."""


def make_model(width: int, num_items: int) -> SequentialRecommender:
    """Make the full method's model."""
    shape = ItemShape(num_items, width, width, width, width, NUM_BLOCKS, NUM_HEADS, 0.0)
    encoders = {branch: SasRec(width, MAX_SEQ_LEN, NUM_BLOCKS, NUM_HEADS, 0.0) for branch in authors.BRANCHES}
    return SequentialRecommender(ImtItems(shape, id_masking=True), encoders).eval()


def main() -> int:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    on = machine(device)
    print(f"torch {on['torch']}, {on['device']}, {on['threads']} CPU threads, float32")
    targets = make_targets(arguments.items, arguments.users, arguments.seed)
    mean = len(targets.history) / targets.num_users
    print(f"{arguments.users} users with {mean:.2f} items before the target (mean), {arguments.items} items")
    widths = {width: measure_width(width, targets, device, arguments) for width in arguments.width}
    result = {
        "benchmark": "evaluate",
        **on,
        "items": arguments.items,
        "users": arguments.users,
        "rounds": arguments.rounds,
        "seed": arguments.seed,
        "widths": widths,
        "ratio": widths[arguments.width[0]]["ratio"],
    }
    print(json.dumps(result))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, nargs="+", default=[768, 128])
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, help="our users at once; default 2048 on a GPU, 512 elsewhere")
    parser.add_argument("--authors-batch", type=int, help="theirs; default 512 on a GPU, 128 elsewhere")
    parser.add_argument("--table-items", type=int, help="items on which the table is timed; default by width")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    on_gpu = torch.device(arguments.device).type == "cuda"
    arguments.batch = arguments.batch or (2048 if on_gpu else 512)
    arguments.authors_batch = arguments.authors_batch or (512 if on_gpu else 128)
    if arguments.smoke:
        arguments.width, arguments.users, arguments.items, arguments.rounds = [16], 20, 200, 1
    return arguments


def make_targets(num_items: int, num_users: int, seed: int) -> Targets:
    """Draw users' items by popularity 1/rank; the last one is the target."""
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, num_items + 1)
    popularity /= popularity.sum()
    lengths = np.minimum(4 + rng.geometric(1 / 3, num_users), 13)
    drawn = [rng.choice(num_items, length, replace=False, p=popularity) + 1 for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths - 1)])
    history = np.concatenate([items[:-1] for items in drawn]).astype(np.int32)
    return Targets(offsets, history, np.array([items[-1] for items in drawn], dtype=np.int32))


def measure_width(
    width: int, targets: Targets, device: torch.device, arguments: argparse.Namespace
) -> dict[str, object]:
    """Compare both sides at one width; print what was found."""
    torch.manual_seed(arguments.seed)
    model = make_model(width, arguments.items).to(device)
    table = {branch: torch.randn(arguments.items + 1, width, device=device) for branch in model.branches}
    for vectors in table.values():
        vectors[0] = 0.0
    evaluator = Evaluator(targets, lambda: iter(()), MAX_SEQ_LEN, arguments.batch, rank_repeat_targets=False)
    encoders = authors.encoders_of({name: value.detach() for name, value in model.state_dict().items()}, NUM_HEADS)
    histories = [torch.from_numpy(part).long().to(device) for part in np.split(targets.history, targets.offsets[1:-1])]
    wanted = targets.target.tolist()
    tables = tuple(table.values())
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "authors": lambda: authors.evaluate(encoders, table, histories, wanted, MAX_SEQ_LEN, arguments.authors_batch),
        "ours": lambda: evaluator.ranks(model, tables),
    }
    print(f"\nD = {width}")
    flops = {side: flops_of(run) / targets.num_users for side, run in sides.items()}  # warms up, too
    compare_ranks(sides["ours"](), sides["authors"]())
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, run in sides.items():
            taken[side].append(seconds_of(run))
    rates = {side: targets.num_users / statistics.median(seconds) for side, seconds in taken.items()}
    for side, rate in rates.items():
        print(f"{side:8s} {rate:10.1f} users/s, {flops[side] / 1e6:8.1f} MFLOP a user")
    found = {
        "users_per_second": rates,
        "seconds": taken,
        "flops_per_user": flops,
        "flop_ratio": flops["authors"] / flops["ours"],
        "ratio": rates["ours"] / rates["authors"],
    }
    print(f"ratio {found['ratio']:.2f}x in time, {found['flop_ratio']:.2f}x in FLOPs")
    return found | {"table_seconds": table_seconds(model, width, device, arguments)}


def compare_ranks(ours: dict[str, np.ndarray], theirs: dict[str, authors.HeadResult]) -> None:
    """Require equal ranks, but for near ties."""
    for head, found in ours.items():
        apart = np.abs(found - theirs[head].ranks)
        print(f"{head:6s} ranks equal for {(apart == 0).mean():.2%} of the users, {apart.max()} places apart at most")
        if apart.max() > NEAR_TIES:
            sys.exit(f"error: the two sides' ranks under head {head} differ by more than {NEAR_TIES} places")


@torch.no_grad()
def table_seconds(
    model: SequentialRecommender, width: int, device: torch.device, arguments: argparse.Namespace
) -> float:
    """Time the item table of the full method, scaled from some items to all; the same for both sides."""
    default = 2048 if device.type == "cuda" else 64 * max(1, 768 // width)
    count = min(arguments.items, arguments.table_items or default)
    least, mean, most = TEXT_TOKENS
    lengths = torch.from_numpy(np.random.default_rng(0).triangular(least, 3 * mean - least - most, most, count)).round()
    tokens = ItemTokens(
        torch.randn(count, most, width, device=device),
        (torch.arange(most) < lengths[:, None]).to(device),
        torch.randn(count, IMAGE_TOKENS, width, device=device),
        torch.ones(count, IMAGE_TOKENS, dtype=torch.bool, device=device),
    )
    item_ids = torch.arange(1, count + 1, device=device)
    model.encode_items(item_ids, [tokens])
    seconds = statistics.median(seconds_of(lambda: model.encode_items(item_ids, [tokens])) for _ in range(3))
    scaled = seconds * arguments.items / count
    print(f"the item table, given to both sides: {scaled:.1f} s (measured on {count} of {arguments.items} items)")
    return scaled


if __name__ == "__main__":
    sys.exit(main())
