import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odmt.data.split import Targets
from odmt.errors import NonFiniteError
from odmt.evaluation.metrics import hit_rate, ndcg
from odmt.evaluation.ranking import rank_all, target_ranks, user_batches


def one_user(history, target):
    targets = Targets(np.array([0, len(history)]), np.array(history), np.array([target]))
    (users,) = user_batches(targets, 3, 8, torch.device("cpu"))
    return users


def rank(scores, history, target, **settings_):
    settings_ = {"rank_repeat_targets": False} | settings_
    return target_ranks(torch.tensor([scores]), one_user(history, target), **settings_).item()


def test_the_history_is_left_out_of_the_ranking():
    assert rank([9.0, 8.0, 7.0, 1.0], history=[1, 2], target=4) == 2


def test_ties_count_against_the_target():
    assert rank([5.0, 5.0, 5.0, 1.0], history=[], target=2) == 3


def test_a_target_in_the_history_is_a_miss():
    assert rank([5.0, 1.0], history=[1], target=1) == 0


def test_a_target_in_the_history_can_be_kept_rankable():
    assert rank([5.0, 1.0, 6.0], history=[1], target=1, rank_repeat_targets=True) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_score_is_an_error(value):
    with pytest.raises(NonFiniteError, match="score is NaN or infinite"):
        rank([value, 1.0], history=[], target=2)


def test_hit_rate_and_ndcg_by_hand():
    ranks = np.array([1, 3, 11, 0])
    assert hit_rate(ranks, 10) == 0.5
    assert ndcg(ranks, 10) == pytest.approx((1 + 0.5) / 4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_equal_sorting_user_by_user(data):
    num_items = data.draw(st.integers(2, 9))
    items = st.integers(1, num_items)
    histories = data.draw(st.lists(st.lists(items, min_size=1, max_size=6), min_size=1, max_size=6))
    wanted = [data.draw(items) for _ in histories]
    scores = torch.tensor([[data.draw(st.integers(0, 4)) for _ in range(num_items)] for _ in histories]).float()
    offsets = np.cumsum([0, *map(len, histories)])
    targets = Targets(offsets, np.concatenate(histories), np.array(wanted))
    served = iter(scores.split(2))
    found = rank_all(
        lambda users: {"head": next(served)},
        targets,
        3,
        batch_size=2,
        device=torch.device("cpu"),
        rank_repeat_targets=False,
    )["head"]
    for user, (history, target) in enumerate(zip(histories, wanted, strict=True)):
        others = [item for item in range(1, num_items + 1) if item not in history and item != target]
        better = sum(scores[user, item - 1] >= scores[user, target - 1] for item in others)
        assert found[user] == (0 if target in history else better + 1)
