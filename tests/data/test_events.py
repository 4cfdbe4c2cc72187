import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odmt.data.events import (
    Wanted,
    chosen_interactions,
    collect_events,
    iterated_core,
    to_sequences,
    without_repetitions,
)
from odmt.errors import DataError


def table(rows):
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user": list(users), "item": list(items), "time": list(times)})


def plain_core(pairs, min_user, min_item):
    """Drop one user or item with too few at a time."""
    left = list(enumerate(pairs))
    while True:
        for place, least in ((0, min_user), (1, min_item)):
            names = [pair[place] for _, pair in left]
            few = next((name for name in names if names.count(name) < least), None)
            if few is not None:
                left = [entry for entry in left if entry[1][place] != few]
                break
        else:
            return [number for number, _ in left]


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_the_iterated_core_is_what_is_left_when_small_users_and_items_go_one_by_one(pairs, min_user, min_item):
    user, item = (np.array([pair[place] for pair in pairs], dtype=np.int32) for place in (0, 1))
    found = np.flatnonzero(iterated_core(user, item, min_user, min_item)).tolist()
    assert found == plain_core(pairs, min_user, min_item)


def test_names_become_codes_over_several_tables_in_the_order_of_their_appearance():
    events = collect_events([table([("u2", "b", 5)]), table([("u1", "b", 6), ("u2", "a", 7)])])
    assert (events.users, events.items) == (["u2", "u1"], ["b", "a"])
    assert (events.user.tolist(), events.item.tolist(), events.time.tolist()) == ([0, 1, 0], [0, 0, 1], [5, 6, 7])


def test_only_the_same_user_item_and_time_is_a_repetition_and_the_first_stays():
    rows = [("u", "a", 1), ("u", "a", 2), ("u", "a", 1), ("v", "a", 1), ("u", "b", 1), ("u", "a", 1)]
    found = without_repetitions(collect_events([table(rows)]))
    assert found.user.tolist() == [0, 0, 1, 0]
    assert found.time.tolist() == [1, 2, 1, 1]
    assert found.item.tolist() == [0, 0, 0, 1]


def test_sequences_are_in_the_order_of_time_and_equal_times_in_that_of_the_file():
    rows = [("v", "c", 3), ("u", "b", 9), ("u", "a", 1), ("u", "d", 1), ("v", "a", 2)]
    events = collect_events([table(rows)])
    interactions, catalogue = to_sequences(events, {name: name.upper() for name in "abcd"})
    assert interactions.users == ["v", "u"]
    assert catalogue == (["a", "b", "c", "d"], ["A", "B", "C", "D"])
    assert interactions.offsets.tolist() == [0, 2, 5]
    assert [catalogue.item_ids[row] for row in interactions.items] == ["a", "c", "a", "d", "b"]


def test_items_that_no_event_names_are_not_in_the_catalogue():
    events = collect_events([table([("u", "a", 1), ("u", "b", 2), ("v", "b", 3)])])
    _, catalogue = to_sequences(events.chosen(events.item == 1), {"b": "B"})
    assert catalogue.item_ids == ["b"]


def test_drawn_users_have_the_core_among_themselves_and_are_the_same_for_a_seed():
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(40), 10), rng.integers(0, 12, 400)
    first = chosen_interactions(user, item, Wanted(5, 5, 10, 1))
    assert first.tolist() == chosen_interactions(user, item, Wanted(5, 5, 10, 1)).tolist()
    assert first.tolist() != chosen_interactions(user, item, Wanted(5, 5, 10, 2)).tolist()
    assert len(np.unique(user[first])) == 10
    assert np.bincount(item[first])[np.unique(item[first])].min() >= 5


def test_more_users_than_there_are_means_all():
    user, item = np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4)
    assert chosen_interactions(user, item, Wanted(5, 1, 100, 1)).all()


def test_a_core_that_leaves_nothing_is_told_with_the_settings():
    with pytest.raises(DataError, match=r"no interaction is left of 2: .*prepare\.min_user_interactions"):
        chosen_interactions(np.array([0, 1]), np.array([0, 0]), Wanted(5, 1))
