"""One real search a method, through Ray, beside its replay: whether the virtual clock tells what a search does."""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from odmt.files import write_atomically
from odmt.home import Home, code_version
from odmt.tuning.event_log import read_log
from odmt.tuning.space import Space
from odmt.tuning.state import Study
from parts.efficiency_replay import MemoryLog, Method, replay, searched
from parts.efficiency_table import Table, key_of

SEED = 1


def compare_live(
    space: Space, table: Table, methods: Mapping[str, Method], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Search with every method once; print and return what happened, and what the replay said would."""
    home = Home.from_environment()
    found: dict[str, Any] = {}
    short_first = sorted(methods, key=lambda name: methods[name].scheduler == "none")
    for name in short_first:
        method = methods[name]
        if method.shuffled:
            continue
        method = method if method.sampler == "grid" else method._replace(at_once=arguments.at_once)
        begun_with = searched(space, method, SEED, arguments.trials)
        live, expected = run_live(begun_with, method, home), replayed(begun_with, method, table)
        found[name] = beside(live, expected, table)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    result = {
        "benchmark": "search_efficiency",
        "live": found,
        "trials": arguments.trials,
        "seed": SEED,
        "commit": code_version(),
        "ratio": round(found["grid, as written"]["live"]["epochs"] / found["TPE + ASHA"]["live"]["epochs"], 2),
    }
    if arguments.save:
        write_atomically(arguments.results / "live.json", json.dumps(result, indent=1).encode())
    return result


def run_live(space: Space, method: Method, home: Home) -> Study:
    """Run a study to its end, or read it where it has ended; return what its log says."""
    from odmt.tuning.driver import Options, run_study

    resources = dataclasses.replace(space.resources, max_concurrent_trials=method.at_once)
    name = f"efficiency-{method.sampler}-{method.scheduler}-{space.budget.trials}"
    run_study(
        dataclasses.replace(space, resources=resources), home, name, Options(where="local", quiet=True, local_cpus=2)
    )
    return read_log(home.study(name) / "events.jsonl")


def replayed(space: Space, method: Method, table: Table) -> Study:
    """Run the same search on the virtual clock."""
    log = MemoryLog()
    for _ in replay(space, table, method.at_once, log):
        pass
    return log.study


def beside(live: Study, expected: Study, table: Table) -> dict[str, Any]:
    """Compare two studies, and the real one's values with the table's."""
    trials = list(live.trials.values())
    pairs = [
        (epoch.value, table.curve(trial.values).ndcg[epoch.epoch - 1]) for trial in trials for epoch in trial.epochs
    ]
    ours, theirs = ([key_of(trial.values) for trial in study.trials.values()] for study in (live, expected))
    return {
        "live": numbers(live),
        "replay": numbers(expected),
        "epochs_with_the_tables_value": sum(round(value, 6) == known for value, known in pairs),
        "trials_in_both": len(set(ours) & set(theirs)),
        "same_trials_from_the_start": next(
            (place for place, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), len(ours)
        ),
    }


def numbers(study: Study) -> dict[str, Any]:
    """Return what a study spent and found."""
    epochs = [epoch for trial in study.trials.values() for epoch in trial.epochs]
    return {
        "trials": len(study.trials),
        "stopped": sum(trial.state == "stopped" for trial in study.trials.values()),
        "epochs": len(epochs),
        "seconds": round(sum(epoch.seconds for epoch in epochs), 1),
        "best": round(max(epoch.value for epoch in epochs), 6),
    }
