"""Equal to the authors' code: item embeddings, scores, ranks, hits and NDCG of both splits, four heads."""

import numpy as np
import pytest
import torch
from golden_files import load, make_model, names, tokens_of

from odmt.data.split import FullSplit, development_split, last_item_targets
from odmt.evaluation.evaluator import Evaluator, item_table, score_users
from odmt.evaluation.metrics import hit_rate, ndcg
from odmt.evaluation.ranking import count_repeat_targets, user_batches


@pytest.fixture(scope="module", params=names("eval_*.npz"))
def case(request):
    meta, arrays = load(request.param)
    return meta, arrays, make_model(meta, arrays, "state/").eval()


def targets_of(meta, split):
    sequences = meta["full_sequences"]
    offsets = np.cumsum([0, *map(len, sequences)])
    full = FullSplit([], np.arange(meta["item_num"]), offsets, np.concatenate(sequences), meta["max_seq_len"])
    development = development_split(full)
    source = full if split == "test" else development
    return last_item_targets(source.offsets, source.items)


def chunks_of(meta, arrays, size=7):
    for start in range(1, meta["item_num"] + 1, size):
        item_ids = np.arange(start, min(start + size, meta["item_num"] + 1))
        yield torch.from_numpy(item_ids), [tokens_of(arrays, item_ids)]


def evaluator_of(meta, arrays, split, **changed):
    settings = {"max_seq_len": meta["max_seq_len"], "batch_size": 5, "rank_repeat_targets": False} | changed
    return Evaluator(targets_of(meta, split), lambda: chunks_of(meta, arrays), **settings)


def test_item_embeddings_equal_the_authors(case):
    meta, arrays, model = case
    table = item_table(model, chunks_of(meta, arrays))
    for branch, vectors in zip(model.branches, table, strict=True):
        expected = torch.from_numpy(arrays[f"item_emb_{branch}"])
        torch.testing.assert_close(vectors[1:], expected[1:], rtol=0, atol=1e-5)
        assert not vectors[0].any()


@pytest.mark.parametrize("split", ["valid", "test"])
def test_scores_equal_the_authors(case, split):
    meta, arrays, model = case
    table = item_table(model, chunks_of(meta, arrays))
    (users,) = user_batches(targets_of(meta, split), meta["max_seq_len"], 1000, torch.device("cpu"))
    for head, scores in score_users(model, table, users).items():
        expected = torch.from_numpy(arrays[f"{split}/scores_{head}"])
        open_to_ranking = torch.isfinite(expected)
        torch.testing.assert_close(scores[open_to_ranking], expected[open_to_ranking], rtol=0, atol=1e-5)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_ranks_equal_the_authors(case, split):
    meta, arrays, model = case
    ranks = evaluator_of(meta, arrays, split).measure(model).ranks
    assert set(ranks) == {"fused", "id", "text", "image"}
    for head, found in ranks.items():
        expected = meta["splits"][split][f"metrics_{head}"]
        assert [rank or None for rank in found.tolist()] == expected["rank"]
        assert hit_rate(found, 10) == pytest.approx(expected["mean_hit10"], abs=1e-6)
        assert ndcg(found, 10) == pytest.approx(expected["mean_ndcg10"], abs=1e-6)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_metrics_are_those_that_the_original_returns(case, split):
    meta, arrays, model = case
    metrics = evaluator_of(meta, arrays, split).measure(model).metrics
    assert [metrics["hr_at_10"], metrics["ndcg_at_10"]] == pytest.approx(meta["splits"][split]["returned"], abs=1e-6)
    assert metrics["repeat_targets"] == sum(meta["splits"][split]["target_in_history"])


def test_a_repeat_target_is_rankable_on_request(case):
    meta, arrays, model = case
    repeats = meta["splits"]["test"]["target_in_history"]
    assert count_repeat_targets(targets_of(meta, "test")) == sum(repeats) > 0
    ranks = evaluator_of(meta, arrays, "test", rank_repeat_targets=True).measure(model).ranks["fused"]
    table = item_table(model, chunks_of(meta, arrays))
    (users,) = user_batches(targets_of(meta, "test"), meta["max_seq_len"], 1000, torch.device("cpu"))
    scores = score_users(model, table, users)["fused"].numpy()
    for user in np.flatnonzero(repeats):
        target = meta["splits"]["test"]["target"][user]
        others = set(range(1, meta["item_num"] + 1)) - set(meta["splits"]["test"]["history"][user]) - {target}
        better = sum(scores[user, item - 1] >= scores[user, target - 1] for item in others)
        assert ranks[user] == better + 1
