"""Features through Ray's object store against a copy in every trial: private memory and time to have them.

Both sides run in one process tree, alternating: two worker processes at once get the same text features, first by
reference (loader tasks, zero-copy views), then by loading the feature store themselves. Private memory is USS: what
would be freed if the worker ended. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from parts import feature_stores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments)
    print(json.dumps(result))
    return 0


def measure(root: Path, arguments: argparse.Namespace) -> dict[str, object]:
    import psutil
    import ray
    import torch

    from odmt.cluster.connect import choose_place, connect, disconnect
    from odmt.config import DataConfig
    from odmt.experiment.arrays import load_encoder_features, plan_encoder_features
    from odmt.features.ragged import RaggedFeatures
    from odmt.features.shards import load_shard
    from odmt.home import Home
    from odmt.training.features import ItemFeatures

    home, data, encoder = Home(root), DataConfig(dataset=feature_stores.DATASET), feature_stores.ENCODER
    feature_stores.write_data_set(home, arguments.items)
    feature_stores.write_own(home, feature_stores.MadeFeatures(arguments.tokens, arguments.width))
    feature_bytes = arguments.items * arguments.tokens * arguments.width * 2
    connect(choose_place("local"), feature_bytes=feature_bytes, num_cpus=2)

    @ray.remote(num_cpus=1)
    def loader(plan):
        return load_shard(plan).features

    @ray.remote(num_cpus=1)
    class Worker:
        def ready(self) -> None:
            load_encoder_features(home, data, encoder)
            self.features = None

        def take(self, shards) -> tuple[float, float]:
            self.features = None
            before, started = psutil.Process().memory_full_info().uss, time.perf_counter()
            if shards:
                self.features = RaggedFeatures.joined(ray.get(shards), arguments.items)
            else:
                self.features = load_encoder_features(home, data, encoder)
            rows = np.arange(self.features.num_rows)
            ItemFeatures(rows, self.features, self.features, torch.device("cpu")).groups(rows[:128] + 1)
            seconds = time.perf_counter() - started
            return psutil.Process().memory_full_info().uss - before, seconds

    try:
        started = time.perf_counter()
        references = [loader.remote(plan) for plan in plan_encoder_features(home, data, encoder)]
        ray.wait(references, num_returns=len(references), fetch_local=False)
        once = time.perf_counter() - started
        workers = [Worker.remote() for _ in range(2)]
        ray.get([worker.ready.remote() for worker in workers])
        found: dict[str, list[tuple[float, float]]] = {"shared": [], "own copy": []}
        for _ in range(arguments.rounds):
            for side, argument in (("shared", references), ("own copy", None)):
                found[side] += ray.get([worker.take.remote(argument) for worker in workers])
    finally:
        disconnect()
    megabytes = {side: statistics.median(uss for uss, _ in runs) / 2**20 for side, runs in found.items()}
    seconds = {side: statistics.median(taken for _, taken in runs) for side, runs in found.items()}
    for side in found:
        print(f"{side:9s} {megabytes[side]:8.1f} MB private a trial, {seconds[side] * 1000:8.1f} ms to have them")
    print(f"loading the shards took {once:.1f} s, for all trials of a study together")
    return {
        "benchmark": "shared_features",
        "feature_megabytes": feature_bytes / 2**20,
        "private_megabytes": megabytes,
        "seconds": seconds,
        "loader_seconds": once,
        "ratio": seconds["own copy"] / seconds["shared"],
    }


if __name__ == "__main__":
    sys.exit(main())
