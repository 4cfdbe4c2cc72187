"""Does it matter that copies of an item share a dropout mask? Validation NDCG@10 with and without de-duplication.

The authors encode every slot of a batch, so two slots with the same item get two dropout masks; de-duplicated, an
item is encoded once and its copies share a mask. Without dropout both are the same computation. Here both are trained
with dropout in the fusion, over several seeds on the generated demo set, and the paired differences are compared with
their spread. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--dropout", type=float, default=0.2, help="in the fusion; the authors' is 0.1")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    best: dict[str, list[float]] = {"once an item": [], "once a slot": []}
    for seed in range(1, arguments.seeds + 1):
        for way, values in best.items():
            started = time.perf_counter()
            values.append(train(seed, way == "once a slot", arguments.epochs, arguments.dropout))
            took = time.perf_counter() - started
            print(f"seed {seed}, encoded {way}: best validation NDCG@10 {values[-1]:.4f} ({took:.0f} s)", flush=True)
    print(json.dumps(summary(best)))
    return 0


def summary(best: dict[str, list[float]]) -> dict[str, object]:
    """Means, deviations, and the 95 % interval of the paired difference (Student's t)."""
    from scipy import stats

    once, copies = best["once an item"], best["once a slot"]
    differences = [a - b for a, b in zip(once, copies, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    mean = statistics.mean(differences)
    return {
        "once_an_item": {"mean": statistics.mean(once), "stdev": statistics.stdev(once)},
        "once_a_slot": {"mean": statistics.mean(copies), "stdev": statistics.stdev(copies)},
        "difference": {"mean": mean, "low": mean - half, "high": mean + half},
        "ratio": statistics.mean(once) / statistics.mean(copies),
        "zero_is_inside": mean - half <= 0 <= mean + half,
    }


def train(seed: int, every_slot: bool, epochs: int, dropout: float) -> float:
    """Train the demo space's incumbent; return the best epoch's validation NDCG@10 of the fused head."""
    from odmt.config import replace_values
    from odmt.experiment.arrays import load_arrays
    from odmt.experiment.build import build_evaluator, build_run, validation_targets
    from odmt.home import Home
    from odmt.training.batches import Shard
    from odmt.training.trainer import fit
    from odmt.tuning.space import load_space

    space = load_space(str(Path(__file__).parents[1] / "search_spaces" / "demo.yaml"), [])
    values = {"train.seed": seed, "train.max_epochs": epochs, "fusion.dropout": dropout}
    config = replace_values(space.incumbent_config(), values, "the benchmark")
    arrays = load_arrays(Home.from_environment(), config)
    run = build_run(config, arrays, None, torch.device("cpu"), Shard())
    if every_slot:
        run.batches.batch = lambda parts, draw=(): one_column_a_slot(run.batches, parts)  # type: ignore[method-assign]
    evaluator = build_evaluator(config, arrays, validation_targets(arrays), run.features)
    results = fit(run.step, run.batches, evaluator.measure, config.train)
    return max(result.valid.metrics["ndcg_at_10"] for result in results)


def one_column_a_slot(batches: "object", parts_BS: Sequence[np.ndarray]) -> "object":
    """Make a batch in which every real slot is encoded by itself, as the authors do (padding left out)."""
    from odmt.model.losses import Candidates
    from odmt.model.recommender import Batch

    (slots_BS,) = parts_BS
    usual = type(batches).batch(batches, parts_BS)  # type: ignore[attr-defined]
    user, slot = np.nonzero(slots_BS)
    order = batches.features.arranged(slots_BS[user, slot])  # type: ignore[attr-defined]
    items = slots_BS[user, slot][order]
    column = np.zeros(slots_BS.shape, dtype=np.int64)
    column[user[order], slot[order]] = np.arange(len(order))
    row_user, position = np.nonzero(slots_BS[:, :-1])
    held = (slots_BS[:, None, :] == items[:, None]).any(axis=2)
    candidates = Candidates(
        user=torch.from_numpy(row_user),
        label=torch.from_numpy(column[row_user, position + 1]),
        log_popularity=torch.from_numpy(batches.log_popularity[items]),  # type: ignore[attr-defined]
        log_count=torch.zeros(len(items), dtype=torch.float64),
        held=torch.from_numpy(held),
    )
    assert isinstance(usual, Batch)
    return usual._replace(
        item_ids=torch.from_numpy(items),
        groups=batches.features.groups(items),  # type: ignore[attr-defined]
        inputs=torch.from_numpy(column[row_user, position]),
        candidates=candidates,
    )


if __name__ == "__main__":
    sys.exit(main())
