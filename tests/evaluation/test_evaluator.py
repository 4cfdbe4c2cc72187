"""The evaluator's own part, on a model small enough to compute by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from odmt.data.split import Targets
from odmt.errors import NonFiniteError
from odmt.evaluation.evaluator import Evaluator, item_table, score_users
from odmt.evaluation.metrics import ranking_metrics
from odmt.evaluation.ranking import user_batches

CPU = torch.device("cpu")
VECTORS = {
    "one": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]],
    "two": [[0.0, 2.0], [2.0, 0.0], [0.0, 0.0], [0.0, 3.0]],
}
TARGETS = Targets(np.array([0, 2, 3, 5]), np.array([1, 2, 3, 4, 4]), np.array([3, 4, 4]))


class LastItem(nn.Module):
    """Item vectors as given; a user's state is the vector of the last item."""

    def __init__(self, vectors):
        super().__init__()
        self.branches = tuple(vectors)
        self.tables = nn.ParameterList(torch.tensor([[9.0, 9.0], *rows]) for rows in vectors.values())
        self.seen = []

    def encode_items(self, item_ids, groups):
        self.seen.append((self.training, item_ids.tolist(), groups))
        return tuple(table[item_ids] for table in self.tables)

    def last_states(self, items, layout):
        return tuple(rows[layout.last] for rows in items)


def chunks():
    yield torch.tensor([1, 2, 3]), ["tokens of 1 to 3"]
    yield torch.tensor([4]), ["tokens of 4"]


def evaluator(**changed):
    settings = {"max_seq_len": 2, "batch_size": 2, "rank_repeat_targets": False} | changed
    return Evaluator(TARGETS, chunks, **settings)


def test_the_table_has_a_row_of_zeros_and_then_every_item():
    table = item_table(LastItem(VECTORS), chunks())
    assert [branch.tolist() for branch in table] == [[[0.0, 0.0], *rows] for rows in VECTORS.values()]


def test_scores_are_dot_products_and_the_fused_head_is_their_mean():
    model = LastItem(VECTORS)
    users = next(user_batches(TARGETS, 2, 1, CPU))  # history 1, 2
    scores = score_users(model, item_table(model, chunks()), users)
    assert {head: found.tolist() for head, found in scores.items()} == {
        "fused": [[0.0, 2.5, 0.5, 0.0]],
        "one": [[0.0, 1.0, 1.0, 0.0]],
        "two": [[0.0, 4.0, 0.0, 0.0]],
    }


def test_ranks_by_hand():
    found = evaluator().measure(LastItem(VECTORS)).ranks
    # User 0, last item 2, target 3, rival 4: 0.5 against 0; 1 against 0; 0 against 0.
    # User 1, last item 3, target 4, rivals 1 and 2: one has -1 against 1 and 1, two has 0 everywhere.
    # User 2: the target lies in the history.
    assert {head: ranks.tolist() for head, ranks in found.items()} == {
        "fused": [1, 3, 0],
        "one": [1, 3, 0],
        "two": [2, 3, 0],
    }
    assert all(ranks.dtype == np.int32 for ranks in found.values())


def test_every_head_has_its_metrics_and_repeats_are_counted():
    metrics, ranks = evaluator().measure(LastItem(VECTORS))
    expected = {"repeat_targets": 1.0} | ranking_metrics(ranks["fused"])
    for head in ("one", "two"):
        expected |= {f"{head}/{name}": value for name, value in ranking_metrics(ranks[head]).items()}
    assert metrics == expected


def test_a_model_of_one_branch_has_the_fused_head_alone():
    model = LastItem({"id": VECTORS["one"]})
    metrics, ranks = evaluator().measure(model)
    assert list(ranks) == ["fused"]
    assert set(metrics) == set(ranking_metrics(np.ones(1))) | {"repeat_targets"}
    users = next(user_batches(TARGETS, 2, 1, CPU))
    assert list(score_users(model, item_table(model, chunks()), users)) == ["fused"]


def test_groups_are_measured_apart_by_the_fused_head():
    groups = {"cold": np.array([False, True, True]), "short_history": np.zeros(3, dtype=bool)}
    metrics = evaluator(groups=groups).measure(LastItem(VECTORS)).metrics
    assert {name: value for name, value in metrics.items() if name.startswith(("cold/", "short"))} == {
        "cold/users": 2.0,
        "cold/hr_at_10": 0.5,
        "cold/ndcg_at_10": pytest.approx(0.25),
        "cold/mrr": pytest.approx(1 / 6),
        "short_history/users": 0.0,
    }


def test_groups_of_another_number_of_users_are_an_error():
    with pytest.raises(ValueError, match="cold: 2 users in the group's mask, 3 in the targets"):
        evaluator(groups={"cold": np.ones(2, dtype=bool)})


def test_items_are_encoded_once_and_in_evaluation_mode():
    model = LastItem(VECTORS).train()
    evaluator(batch_size=1).measure(model)
    assert model.seen == [(False, [1, 2, 3], ["tokens of 1 to 3"]), (False, [4], ["tokens of 4"])]
    assert model.training


def test_the_model_is_back_in_training_mode_after_an_error():
    model = LastItem({"id": [[1.0, 0.0], [float("nan"), 1.0], [1.0, 1.0], [1.0, 1.0]]}).train()
    with pytest.raises(NonFiniteError, match="score is NaN or infinite"):
        evaluator().measure(model)
    assert model.training


def test_autocast_around_it_changes_nothing():
    class Product(LastItem):
        def last_states(self, items, layout):
            return tuple((rows @ torch.eye(2))[layout.last] for rows in items)

        def encode_items(self, item_ids, groups):
            return tuple(rows @ torch.eye(2) for rows in super().encode_items(item_ids, groups))

    model = Product({"id": [[1.001, 0.0], [1.0, 0.5], [1.0005, 0.0], [1.0, 0.0]]})
    plain = evaluator().measure(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = evaluator().measure(model)
    assert under.metrics == plain.metrics
    assert under.ranks["fused"].tolist() == plain.ranks["fused"].tolist()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_number_of_users_at_once_changes_nothing(batch_size):
    found = evaluator(batch_size=batch_size).measure(LastItem(VECTORS)).ranks
    assert found["fused"].tolist() == [1, 3, 0]
