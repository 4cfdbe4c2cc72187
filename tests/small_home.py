"""A prepared data set and one trained trial under a home folder, with random features instead of feature stores."""

from types import SimpleNamespace

import numpy as np
from small_arrays import ragged, small_config

from odmt.config import TextEncoderConfig
from odmt.data.interactions import Catalogue, Interactions, write_dataset
from odmt.experiment.arrays import arrays_digest, load_arrays
from odmt.experiment.run import training_run
from odmt.home import Home
from odmt.training.checkpoint import CheckpointFolder

DATASET = "small"
ITEMS = 12
CONFIG = small_config(data={"dataset": DATASET, "max_seq_len": 4}, train={"max_epochs": 2})


def write_small_dataset(home, monkeypatch):
    """Users 0 to 19 walk around a ring of items from different places; features are random."""
    sequences = [[(user + step) % ITEMS for step in range(5 + user % 3)] for user in range(20)]
    interactions = Interactions(
        [f"u{user}" for user in range(20)],
        np.cumsum([0, *map(len, sequences)]),
        np.array([item for sequence in sequences for item in sequence], dtype=np.int32),
    )
    catalogue = Catalogue([f"item{number:02d}" for number in range(ITEMS)], [f"Title {n}" for n in range(ITEMS)])
    write_dataset(home.dataset(DATASET), interactions, catalogue)

    def features(home, dataset, encoder, catalogue, needed_rows=None):
        is_text = isinstance(encoder, TextEncoderConfig)
        return ragged(np.random.default_rng(int(is_text)), ITEMS, 6 if is_text else 7, 3)

    monkeypatch.setattr("odmt.experiment.arrays.load_features", features)
    monkeypatch.setattr("odmt.experiment.arrays.items_digest", lambda *arguments: "sources")
    return sequences


def trained_trial(home, study="small", trial_id="t-abc"):
    """Train for two epochs; return what ``read_study`` says about the trial."""
    folder = CheckpointFolder(home.study(study) / "trials" / trial_id)
    results = list(training_run(CONFIG, load_arrays(home, CONFIG), checkpoints=folder))
    best = max(results, key=lambda result: result.metrics["valid/ndcg_at_10"])
    return SimpleNamespace(
        trial_id=trial_id,
        number=0,
        values={"train.learning_rate": CONFIG.train.learning_rate},
        config=CONFIG,
        state="completed",
        epochs=[(result.epoch, result.metrics) for result in results],
        best_epoch=best.epoch,
        best_value=best.metrics["valid/ndcg_at_10"],
        best_checkpoint=best.checkpoint,
        reason=None,
    )


def study_of(*trials, name="small"):
    """Return what ``read_study`` says about a study."""
    finished = [trial for trial in trials if trial.state in ("completed", "stopped")]
    return SimpleNamespace(
        name=name, study_id=f"{name}-id", space_name=name, dataset=DATASET, data_digest="d1", trials=list(trials),
        run_digests=tuple({arrays_digest(Home.from_environment(), trial.config) for trial in trials}),
        tainted=None, budget=len(trials), finished=True,
        best=max(finished, key=lambda trial: trial.best_value, default=None),
    )  # fmt: skip
