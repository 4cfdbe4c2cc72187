"""The shipped demo data set: each modality alone ranks better than popularity, all together better than each."""

import numpy as np
import pytest
from small_arrays import plain_gather

from odmt.data.interactions import read_catalogue, read_interactions
from odmt.data.split import development_split, last_item_targets, split_interactions
from odmt.evaluation.floors import floor_metrics
from odmt.evaluation.metrics import ranking_metrics
from odmt.experiment.prepare import PreparePlan, prepare
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT
from odmt.features.shards import load_features
from odmt.home import Home

DECAY = 0.7


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("demo"))
    encoders = {"text_encoders": (TINY_TEXT,), "image_encoders": (TINY_IMAGE,)}
    prepare(home, PreparePlan(dataset="demo", generate_demo=True, tiny_encoders=True, **encoders))
    return home


@pytest.fixture(scope="module")
def split(home):
    folder = home.dataset("demo")
    return development_split(split_interactions(read_interactions(folder, read_catalogue(folder)), 12, 5))


@pytest.fixture(scope="module")
def targets(split):
    """Validation targets; the histories are the training items."""
    return last_item_targets(split.offsets, split.items)


@pytest.fixture(scope="module")
def recent(targets, split):
    """What each user met, later items weighing more."""
    weights = np.zeros((targets.num_users, split.num_items))
    for user, (start, end) in enumerate(zip(targets.offsets[:-1], targets.offsets[1:], strict=True)):
        weights[user, targets.history[start:end] - 1] = DECAY ** np.arange(end - start)[::-1]
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def scores(home, split, targets, recent):
    """Three rankers without training: cosine of mean-pooled features, and normalised co-occurrence for the ID."""
    return {
        "text": recent @ similarity(pooled(home, TINY_TEXT, split)),
        "image": recent @ similarity(pooled(home, TINY_IMAGE, split)),
        "id": recent @ co_occurrence(targets, split.num_items),
    }


def pooled(home, encoder, split):
    features = load_features(home, "demo", encoder, read_catalogue(home.dataset("demo")))
    tokens, mask = plain_gather(features, split.item_rows)
    return tokens.sum(axis=1) / mask.sum(axis=1, keepdims=True)


def similarity(vectors):
    centred = vectors - vectors.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T


def co_occurrence(targets, num_items, window=3):
    counts = np.zeros((num_items, num_items))
    for start, end in zip(targets.offsets[:-1], targets.offsets[1:], strict=True):
        history = targets.history[start:end] - 1
        for gap in range(1, min(window, len(history) - 1) + 1):
            np.add.at(counts, (history[gap:], history[:-gap]), 1)
    counts += counts.T
    total = np.sqrt(counts.sum(axis=0) + 1)
    return counts / total / total[:, None]


def ndcg_of(scores, targets, recent):
    scores = np.where(recent > 0, -np.inf, scores)
    target_scores = np.take_along_axis(scores, targets.target[:, None] - 1, axis=1)
    return ranking_metrics((scores >= target_scores).sum(axis=1))["ndcg_at_10"]


@pytest.fixture(scope="module")
def popularity(targets, split):
    return floor_metrics(targets.offsets, targets.history, split.num_items, targets)["popularity"]["ndcg_at_10"]


@pytest.mark.parametrize("modality", ["text", "image", "id"])
def test_each_modality_alone_beats_popularity(modality, scores, targets, recent, popularity):
    assert ndcg_of(scores[modality], targets, recent) > 1.5 * popularity


def test_all_modalities_together_beat_each_alone(scores, targets, recent):
    standard = {name: (s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True) for name, s in scores.items()}
    together = ndcg_of(standard["id"] + 0.3 * (standard["text"] + standard["image"]), targets, recent)
    assert together > 1.03 * max(ndcg_of(single, targets, recent) for single in scores.values())


def test_text_and_image_tell_different_things(home, split):
    text = similarity(pooled(home, TINY_TEXT, split))
    image = similarity(pooled(home, TINY_IMAGE, split))
    pairs = np.triu_indices(split.num_items, 1)
    assert abs(np.corrcoef(text[pairs], image[pairs])[0, 1]) < 0.05
