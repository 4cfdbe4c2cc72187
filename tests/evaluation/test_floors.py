import numpy as np
import pytest

from odmt.data.split import Targets
from odmt.evaluation.floors import TransitionCounts, floor_metrics

OFFSETS = np.array([0, 3, 6, 8])
ITEMS = np.array([1, 2, 3, 1, 2, 4, 4, 1])  # 1>2 twice, 2>3, 2>4, 4>1; never 3>1 or 4>4 across users


def test_transitions_are_counted_within_users_only():
    counts = TransitionCounts(OFFSETS, ITEMS, 4)
    assert counts.rows(np.array([1, 2, 3, 4])).tolist() == [
        [0, 2, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
        [1, 0, 0, 0],
    ]


def test_floors_by_hand():
    # popularity of 1..4 is 3, 2, 1, 2. Users: history [2] -> 3 and history [3] -> 2.
    targets = Targets(np.array([0, 1, 2]), np.array([2, 3]), np.array([3, 2]))
    found = floor_metrics(OFFSETS, ITEMS, 4, targets)
    # popularity: 3 is behind 1 and 4 (rank 3); 2 is behind 1 and ties with 4 (rank 3).
    assert found["popularity"]["ndcg_at_10"] == pytest.approx(0.5)
    # transitions after 2: items 3 and 4 once each, 4 more popular (rank 2); after 3: nothing, so popularity (rank 3).
    assert found["transitions"]["ndcg_at_10"] == pytest.approx((1 / np.log2(3) + 0.5) / 2)


def test_one_sequence_of_one_item_has_no_transition():
    counts = TransitionCounts(np.array([0, 1]), np.array([2]), 3)
    assert counts.rows(np.array([2])).tolist() == [[0, 0, 0]]
