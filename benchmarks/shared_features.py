"""Features through Ray's object store against a copy in every trial: private memory and time to have them.

Both sides run in one process tree, alternating: two worker processes at once get the same text features, first by
reference (one loader task, zero-copy views), then by loading the feature store themselves. Private memory is USS: what
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


def make_store(root: Path, items: int, tokens: int, width: int) -> int:
    """Write a data set and its text features; return the features' bytes."""
    from odmt.config import TextEncoderConfig
    from odmt.data.interactions import Catalogue, Interactions, read_catalogue, write_dataset
    from odmt.features.extract import Loaded, fill_store
    from odmt.features.store import encoder_spec, feature_store_path, source_digests
    from odmt.home import Home

    home = Home(root)
    names = [f"i{number:06d}" for number in range(items)]
    rows = np.arange(items, dtype=np.int32)
    offsets = np.append(np.arange(0, items, 10), items)
    users = [f"u{number}" for number in range(len(offsets) - 1)]
    write_dataset(home.dataset("bench"), Interactions(users, offsets, rows), Catalogue(names, names))
    encoder = TextEncoderConfig(model="bench")
    path = feature_store_path(home, "bench", encoder)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    block = rng.standard_normal((tokens, width)).astype(np.float16)
    catalogue = read_catalogue(home.dataset("bench"))
    fill_store(
        path,
        {"encoder": encoder_spec(encoder, home.dataset("bench")), "model": encoder.model},
        source_digests(home, "bench", encoder, catalogue),
        lambda: Loaded(lambda ids: [block for _ in ids], width, tokens, None),
        "features",
    )
    return items * tokens * width * 2


def measure(root: Path, arguments: argparse.Namespace) -> dict[str, object]:
    import psutil
    import ray
    import torch

    from odmt.cluster.connect import choose_place, connect, disconnect
    from odmt.config import DataConfig, TextEncoderConfig
    from odmt.experiment.arrays import load_encoder_features
    from odmt.home import Home
    from odmt.training.features import ItemFeatures

    feature_bytes = make_store(root, arguments.items, arguments.tokens, arguments.width)
    data, encoder = DataConfig(dataset="bench"), TextEncoderConfig(model="bench")
    connect(choose_place("local"), feature_bytes=feature_bytes, num_cpus=2)

    @ray.remote(num_cpus=0)
    def loader():
        return load_encoder_features(Home(root), data, encoder)

    @ray.remote(num_cpus=1)
    class Worker:
        def ready(self) -> None:
            load_encoder_features(Home(root), data, TextEncoderConfig(model="bench"))
            self.features = None

        def take(self, reference) -> tuple[float, float]:
            self.features = None
            before, started = psutil.Process().memory_full_info().uss, time.perf_counter()
            self.features = ray.get(reference[0]) if reference else load_encoder_features(Home(root), data, encoder)
            rows = np.arange(self.features.num_rows)
            ItemFeatures(rows, self.features, self.features, torch.device("cpu")).groups(rows[:128] + 1)
            seconds = time.perf_counter() - started
            return psutil.Process().memory_full_info().uss - before, seconds

    try:
        started = time.perf_counter()
        reference = loader.remote()
        ray.wait([reference], fetch_local=False)
        once = time.perf_counter() - started
        workers = [Worker.remote() for _ in range(2)]
        ray.get([worker.ready.remote() for worker in workers])
        found: dict[str, list[tuple[float, float]]] = {"shared": [], "own copy": []}
        for _ in range(arguments.rounds):
            for side, argument in (("shared", [reference]), ("own copy", None)):
                found[side] += ray.get([worker.take.remote(argument) for worker in workers])
    finally:
        disconnect()
    megabytes = {side: statistics.median(uss for uss, _ in runs) / 2**20 for side, runs in found.items()}
    seconds = {side: statistics.median(taken for _, taken in runs) for side, runs in found.items()}
    for side in found:
        print(f"{side:9s} {megabytes[side]:8.1f} MB private a trial, {seconds[side] * 1000:8.1f} ms to have them")
    print(f"the one loader task took {once:.1f} s, for all trials of a study together")
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
