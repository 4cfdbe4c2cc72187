import numpy as np
import pytest

from odmt.data.interactions import Interactions
from odmt.data.split import (
    development_split,
    left_padded,
    split_interactions,
    training_windows,
)
from odmt.errors import DataError


def interactions_of(*sequences):
    offsets = np.cumsum([0, *map(len, sequences)])
    users = [f"u{index}" for index in range(len(sequences))]
    return Interactions(users, offsets, np.array([item for row in sequences for item in row], dtype=np.int32))


def test_no_development_sequence_holds_a_test_position():
    full = split_interactions(interactions_of([0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10]), 12, 5)
    development = development_split(full)
    assert [row.tolist() for row in np.split(development.items, development.offsets[1:-1])] == [
        [1, 2, 3, 4],
        [6, 7, 8, 9, 10],
    ]
    assert not set(development.items.tolist()) & {5, 11}


def test_only_the_last_max_seq_len_plus_three_items_are_kept():
    full = split_interactions(interactions_of(list(range(10))), 2, 5)
    assert full.item_rows.tolist() == [5, 6, 7, 8, 9]
    assert full.items.tolist() == [1, 2, 3, 4, 5]


def test_short_users_are_left_out_with_the_items_only_they_hold():
    full = split_interactions(interactions_of([0, 1, 2, 3], [4, 5, 6, 7, 8]), 12, 5)
    assert full.users == ["u1"]
    assert full.item_rows.tolist() == [4, 5, 6, 7, 8]


def test_a_data_set_of_short_users_is_refused_with_the_longest():
    with pytest.raises(DataError, match=r"no user has 5 interactions \(data.min_seq_len\); the longest has 3"):
        split_interactions(interactions_of([0, 1], [1, 2, 0]), 12, 5)


def test_left_padding_keeps_the_last_items():
    offsets, items = np.array([0, 1, 5]), np.array([9, 1, 2, 3, 4])
    assert left_padded(offsets, items, 3).tolist() == [[0, 0, 9], [2, 3, 4]]


def test_a_window_of_the_shortest_user_holds_three_items():
    development = development_split(split_interactions(interactions_of([0, 1, 2, 3, 4]), 4, 5))
    assert training_windows(development).tolist() == [[0, 0, 1, 2, 3]]
