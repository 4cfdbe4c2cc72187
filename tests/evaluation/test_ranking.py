import numpy as np
import pytest
import torch

from odmt.data.split import Targets
from odmt.errors import NonFiniteError
from odmt.evaluation.ranking import count_repeat_targets, rank_all, target_ranks, user_batches

CPU = torch.device("cpu")


def one_user(history, target):
    targets = Targets(np.array([0, len(history)]), np.array(history), np.array([target]))
    (users,) = user_batches(targets, 3, 8, CPU)
    return users


def rank(scores, history, target, **settings_):
    settings_ = {"rank_repeat_targets": False} | settings_
    return target_ranks(torch.tensor([[scores]]), one_user(history, target), **settings_).item()


def test_the_history_is_left_out_of_the_ranking():
    assert rank([9.0, 8.0, 7.0, 1.0], history=[1, 2], target=4) == 2


def test_an_item_that_stands_twice_in_the_history_is_left_out_once():
    assert rank([9.0, 8.0, 7.0, 1.0], history=[1, 1, 2, 1], target=4) == 2


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


def test_ranks_come_back_in_the_order_of_the_users():
    # Histories of 3, 1 and 2 items are ranked shortest first; each user is known by its target.
    targets = Targets(np.array([0, 3, 4, 6]), np.array([1, 2, 3, 1, 1, 2]), np.array([7, 9, 8], dtype=np.int32))
    seen = []

    def rank(users):
        seen.append(users.inputs.tolist())
        return users.target[None] * 10

    found = rank_all(rank, ["head"], targets, 3, batch_size=2, device=CPU)["head"]
    assert found.tolist() == [70, 90, 80]
    assert found.dtype == np.int32
    assert seen == [[[0, 0, 1], [0, 1, 2]], [[1, 2, 3]]]


def test_repeat_targets_are_counted_once_a_user():
    targets = Targets(np.array([0, 3, 4, 6]), np.array([5, 5, 1, 2, 3, 4]), np.array([5, 3, 4]))
    assert count_repeat_targets(targets) == 2
