"""Compute that searches take to arrive at 99 % of the best known validation NDCG@10.

``parts/search_efficiency.yaml`` has 96 combinations over the generated demo set. Each was trained once for all of its
twelve epochs (--tabulate; goes on where it was interrupted), and the table is kept. Searches are then replayed on it:
the package's own samplers, journal and scheduler on a virtual clock, two trials at once, epochs taking their measured
seconds of one core. Compared, over the seeds of the search:

* grid as the authors do it: nested loops, one run at a time, each to its last epoch; as written in the space, and,
  since where the best one stands in a written order is luck, with loops and values in shuffled orders;
* random and TPE, every trial to its last epoch, and both with ASHA at the package's default rungs (1, 3, 9).

No method begins at an incumbent: a sampler's first trial is drawn at random, as random search does. A search that
ends without arriving counts as infinitely far in the medians, and in the means is followed by one with another seed.
Compute is what all trials together have used up to the report that arrives, epochs under way included. --live runs one
search a method for real, through Ray, beside its replay. The last line is one JSON object;
its ratio is the grid's median compute (shuffled orders) over that of TPE + ASHA.

  python benchmarks/search_efficiency.py
  python benchmarks/search_efficiency.py --tabulate
  python benchmarks/search_efficiency.py --live --trials 16
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from parts.efficiency_replay import Method, replay, searched
from parts.efficiency_report import NEAR, TOP, Search, again, draw, ratio, summary, targets, tell
from parts.efficiency_speed import quick_proposals
from parts.efficiency_table import Table, read_table, tabulate

from odmt.commands import Parser, run
from odmt.files import write_atomically
from odmt.home import CHECKOUT, Home, code_version
from odmt.tuning.space import Space, load_space

SPACE = CHECKOUT / "benchmarks" / "parts" / "search_efficiency.yaml"
KEPT = CHECKOUT / "benchmarks" / "results" / "2026-11-25_search_efficiency"
METHODS = {
    "grid, as written": Method("grid", "none", at_once=1),
    "grid, shuffled": Method("grid", "none", at_once=1, shuffled=True),
    "random": Method("random", "none"),
    "TPE": Method("tpe", "none"),
    "random + ASHA": Method("random", "asha"),
    "TPE + ASHA": Method("tpe", "asha"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(__doc__ or "")
    parser.add_argument("--tabulate", action="store_true", help="first train what the table lacks; 20 min in all")
    parser.add_argument("--live", action="store_true", help="one real search a method, with Ray, instead of replays")
    parser.add_argument("--trials", type=int, default=24, help="of a --live search")
    parser.add_argument("--seeds", type=int, default=20, help="searches a method; the kept result has 100")
    parser.add_argument("--at-once", type=int, default=2, help="trials at once, of all but the grid")
    parser.add_argument("--results", type=Path, default=KEPT, metavar="DIR", help="where curves.jsonl is")
    parser.add_argument("--save", action="store_true", help="write the summary and the figure there too")
    parser.add_set()
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Tabulate, replay or search, tell."""
    space = load_space(str(SPACE), arguments.assignments)
    path = arguments.results / "curves.jsonl"
    if arguments.tabulate:
        tabulate(space, Home.from_environment(), path)
    table = read_table(path, space)
    if arguments.live:
        from parts.efficiency_live import compare_live

        result = compare_live(space, table, METHODS, arguments)
    else:
        result = compare(space, table, arguments)
    print(json.dumps(result))
    return 0


def compare(space: Space, table: Table, arguments: argparse.Namespace) -> dict[str, Any]:
    """Replay every method with every seed."""
    near = targets(table)["near_best"]
    bests = sorted((curve.best for curve in table.curves), reverse=True)
    print(
        f"{len(bests)} combinations, {table.epochs} epochs, {table.seconds / 3600:.3f} CPU hours; the best values: "
        f"{', '.join(f'{value:.4f}' for value in bests[:TOP])}; {sum(value >= near for value in bests)} within "
        f"{1 - NEAR:.0%} of the best",
        flush=True,
    )
    searches: dict[str, list[Search]] = {}
    for name, method in METHODS.items():
        begun = time.perf_counter()
        seeds = 1 if method.sampler == "grid" and not method.shuffled else arguments.seeds
        searches[name] = [replayed(space, table, method, seed, arguments.at_once) for seed in range(1, seeds + 1)]
        print(f"  {name}: {seeds} searches replayed in {time.perf_counter() - begun:.0f} s", flush=True)
    results = {name: summary(found, table) for name, found in searches.items()}
    tell(results, table)
    ratios = {
        f"{grid} / TPE + ASHA, {goal}": ratio(searches[grid], searches["TPE + ASHA"], target)
        for grid in ("grid, as written", "grid, shuffled")
        for goal, target in targets(table).items()
    }
    means = {
        goal: round(again(searches["grid, shuffled"], target) / again(searches["TPE + ASHA"], target), 2)
        for goal, target in targets(table).items()
    }
    print(f"grid, shuffled / TPE + ASHA, means with another search where one ends without arriving: {means}")
    for name, found in ratios.items():
        print(f"{name}: {found['ratio']} (95 % of resampled medians: {found['interval']})")
    result = {
        "benchmark": "search_efficiency",
        "commit": code_version(),
        "seeds": arguments.seeds,
        "at_once": arguments.at_once,
        "within_99_percent": sum(value >= near for value in bests),
        "methods": results,
        "ratios": ratios,
        "ratios_of_means": means,
        "ratio": ratios["grid, shuffled / TPE + ASHA, near_best"]["ratio"],
    }
    if arguments.save:
        write_atomically(arguments.results / "replay.json", json.dumps(result, indent=1).encode())
        draw(searches, table, arguments.results / "best_so_far.png")
    return result


def replayed(space: Space, table: Table, method: Method, seed: int, at_once: int) -> Search:
    """Replay one search until nothing better is left to be found."""
    points = []
    if method.sampler != "grid":
        method = method._replace(at_once=at_once)
    with quick_proposals():
        for point in replay(searched(space, method, seed), table, method.at_once):
            points.append(point)
            if point.value >= table.best:
                break
    return Search.of(points)


if __name__ == "__main__":
    sys.exit(main())
