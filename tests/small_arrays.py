"""A small random data set as arrays, for tests that need no files."""

import numpy as np

from odmt.config import RunConfig, from_mapping
from odmt.data.split import DevelopmentSplit
from odmt.experiment.arrays import TrialArrays
from odmt.features.ragged import FeatureShard, RaggedFeatures

SMALL = {
    "data": {"max_seq_len": 4},
    "model": {"embedding_dim": 8, "id_init": "random"},
    "fusion": {"num_layers": 1, "num_heads": 2},
    "sequence": {"num_layers": 1, "num_heads": 2},
    "distill": {"rampup_epochs": 4},
    "train": {"max_epochs": 4, "learning_rate": 1e-2, "batch_size": 8, "eval_batch_size": 16},
}


def small_config(**sections):
    merged = {name: SMALL.get(name, {}) | sections.get(name, {}) for name in SMALL.keys() | sections.keys()}
    return from_mapping(RunConfig, merged, "test")


def ragged(rng, rows, width, longest):
    lengths = rng.integers(1, longest + 1, rows)
    tokens = rng.standard_normal((lengths.sum(), width)).astype(np.float16)
    return RaggedFeatures.of(tokens, np.cumsum([0, *lengths]))


def tokens_by_row(features):
    """Each catalogue row's tokens, for the rows that a shard holds."""
    return {
        row: shard.tokens[start:end]
        for shard in features.shards
        for row, start, end in zip(shard.rows.tolist(), shard.offsets[:-1], shard.offsets[1:], strict=True)
    }


def in_shards(features, groups):
    """The same features with some rows in each shard; rows in no group lose their tokens."""
    held = tokens_by_row(features)
    shards = []
    for rows in groups:
        parts = [held[row] for row in rows]
        tokens = np.concatenate([features.shards[0].tokens[:0], *parts])
        shards.append(FeatureShard(tokens, np.cumsum([0, *map(len, parts)]), np.array(rows, dtype=np.int32)))
    return RaggedFeatures.joined(shards, features.num_rows)


def plain_gather(features, rows):
    """Tokens of some catalogue rows, row by row: float32 ``(M, T, D)`` padded with zeros, and bool ``(M, T)``."""
    held, none = tokens_by_row(features), np.empty((0, features.width))
    parts = [held.get(row, none) for row in rows]
    padded = np.zeros((len(parts), max(1, *map(len, parts)), features.width), dtype=np.float32)
    mask = np.zeros(padded.shape[:2], dtype=bool)
    for place, part in enumerate(parts):
        padded[place, : len(part)], mask[place, : len(part)] = part, True
    return padded, mask


def small_arrays(*, users=30, items=20, max_seq_len=4, seed=0, cyclic=False):
    """With ``cyclic`` every item is followed by the next id; else sequences are random."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, max_seq_len + 3, users)
    if cyclic:
        sequences = [(rng.integers(items) + np.arange(length)) % items + 1 for length in lengths]
    else:
        sequences = [rng.permutation(items)[:length] + 1 for length in lengths]
    split = DevelopmentSplit(
        item_rows=np.arange(items, dtype=np.int32) + 2,
        offsets=np.cumsum([0, *lengths]),
        items=np.concatenate(sequences).astype(np.int32),
        max_seq_len=max_seq_len,
    )
    return TrialArrays(split, ragged(rng, items + 2, 6, 5), ragged(rng, items + 2, 7, 3))


def numbers(results):
    """Return the metrics of results without the one that is a time."""
    return [without_times(result.metrics) for result in results]


def without_times(metrics):
    """Leave out the metric that is no function of the run."""
    return {name: value for name, value in metrics.items() if name != "cost/seconds_per_user"}
