"""Gathers from several shards against the gather from one array, and against a plain one, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_arrays import in_shards

from odmt.features.ragged import RaggedFeatures
from odmt.training.features import ItemFeatures
from odmt.training.modality import Modality, summaries_of

CPU = torch.device("cpu")
WIDTH = 3


@st.composite
def catalogues(draw):
    """Rows of any bits, NaN and -0 among them, as one array and cut into shards; and items of a split."""
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    bits = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, 2**16, (sum(lengths), WIDTH))
    whole = RaggedFeatures.of(bits.astype(np.uint16).view(np.float16), np.cumsum([0, *lengths]))
    rows = draw(st.permutations([row for row, length in enumerate(lengths) if length or draw(st.booleans())]))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    groups = [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    items = np.array(draw(st.permutations(range(len(lengths)))))
    return whole, in_shards(whole, groups), items


def bits_of(tokens):
    return np.asarray(tokens).view(np.uint16).tolist()


def by_hand(whole, rows, limit):
    """One item after the other: tokens as bits, and the mask, None if all are real."""
    held = [whole.shards[0].tokens[whole.shards[0].offsets[row] : whole.shards[0].offsets[row + 1]] for row in rows]
    held = [bits_of(tokens[:limit]) for tokens in held]
    longest = max([1, *map(len, held)])
    mask = [[True] * len(tokens) + [False] * (longest - len(tokens)) for tokens in held]
    padded = [tokens + [[0] * WIDTH] * (longest - len(tokens)) for tokens in held]
    return padded, None if all(map(all, mask)) else mask


@settings(max_examples=300, deadline=None)
@given(catalogue=catalogues(), data=st.data(), copied=st.booleans(), limit=st.none() | st.integers(1, 3))
def test_any_cut_into_shards_gathers_the_bits_of_the_one_array(catalogue, data, copied, limit):
    whole, cut, item_rows = catalogue
    places = np.array(data.draw(st.lists(st.integers(0, len(item_rows) - 1), min_size=1, max_size=9)))
    expected = by_hand(whole, item_rows[places], limit)
    for features in (whole, cut):
        tokens, mask = Modality(features, item_rows, CPU if copied else None).gather(places, limit)
        assert (bits_of(tokens), None if mask is None else mask.tolist()) == expected
        assert (tokens.dtype, tokens.shape[2]) == (torch.float16, WIDTH)


@settings(max_examples=100, deadline=None)
@given(catalogue=catalogues())
def test_any_cut_into_shards_has_the_summaries_of_the_one_array(catalogue):
    whole, cut, item_rows = catalogue
    expected = by_hand(whole, item_rows, 1)[0]
    for features in (whole, cut):
        found = summaries_of(features, item_rows)
        assert found.lengths.tolist() == [min(1, whole.lengths[row]) for row in item_rows]
        for place, tokens in enumerate(expected):
            assert bits_of(found.tokens_of(place)) == tokens[: found.lengths[place]]


def cut_by_hand():
    """Rows 0 and 3 in the first shard, 1 in the second; row 2 has no tokens and is in none."""
    whole = RaggedFeatures.of(np.arange(12, dtype=np.float16).reshape(6, 2), np.array([0, 1, 3, 3, 6]))
    return in_shards(whole, [[3, 0], [1]])


def test_items_of_two_shards_by_hand():
    tokens, mask = Modality(cut_by_hand(), np.array([1, 0, 3, 2])).gather(np.array([1, 3, 0, 2]))
    none = [0, 0]
    assert tokens.tolist() == [
        [[0, 1], none, none], [none] * 3, [[2, 3], [4, 5], none], [[6, 7], [8, 9], [10, 11]]
    ]  # fmt: skip
    assert mask.tolist() == [[True, False, False], [False] * 3, [True, True, False], [True] * 3]


def test_first_tokens_of_two_shards_have_no_mask():
    tokens, mask = Modality(cut_by_hand(), np.arange(4)).gather(np.array([0, 1, 3]), 1)
    assert tokens.tolist() == [[[0, 1]], [[2, 3]], [[6, 7]]]
    assert mask is None


@pytest.mark.parametrize("places", [[0], [1], [0, 1]])
def test_a_gather_is_a_copy(places):
    features = cut_by_hand()
    tokens, _ = Modality(features, np.array([0, 1])).gather(np.array(places))
    tokens.fill_(9.0)
    assert [features.tokens_of(row).tolist() for row in (0, 1)] == [[[0, 1]], [[2, 3], [4, 5]]]


def test_tokens_copied_to_the_device_are_one_tensor_of_its_own():
    """The CPU stands in for a GPU."""
    features = cut_by_hand()
    modality = Modality(features, np.arange(4), CPU)
    (whole,) = modality.parts
    assert whole.tolist() == [[6, 7], [8, 9], [10, 11], [0, 1], [2, 3], [4, 5]]
    whole.fill_(9.0)
    assert features.tokens_of(0).tolist() == [[0, 1]]


def test_no_items_gather_no_tokens():
    tokens, mask = Modality(cut_by_hand(), np.arange(4)).gather(np.zeros(0, dtype=int))
    assert tokens.shape == (0, 1, 2)
    assert mask is None


def test_item_features_of_shards_are_those_of_one_array():
    whole = RaggedFeatures.of(np.arange(12, dtype=np.float16).reshape(6, 2), np.array([0, 1, 3, 4, 6]))
    cut = in_shards(whole, [[3, 0], [], [1, 2]])
    items = np.arange(1, 5)
    for reads in ("all", "summaries"):
        one, several = (ItemFeatures(np.arange(4), part, part, CPU, reads=reads) for part in (whole, cut))
        for ours, theirs in zip(several.groups(items), one.groups(items), strict=True):
            for found, expected in zip(ours, theirs, strict=True):
                assert (found is None and expected is None) or torch.equal(found, expected)
