"""Blocked ranking against a plain count, user by user."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odmt.data.split import Targets
from odmt.errors import NonFiniteError
from odmt.evaluation.blocks import ItemBlocks, heads_of, score_heads
from odmt.evaluation.ranking import rank_all, user_batches

CPU = torch.device("cpu")
FLOAT32_MAX = torch.finfo(torch.float32).max


def plain_rank(scores, history, target, rank_repeat_targets):
    """Place of the target in the sorted list of what may be recommended, behind all items of its score."""
    if target in history and not rank_repeat_targets:
        return 0
    rivals = [score for item, score in enumerate(scores, start=1) if item not in history and item != target]
    ordered = sorted([*((-score, 0) for score in rivals), (-scores[target - 1], 1)])
    return ordered.index((-scores[target - 1], 1)) + 1


def everyone(histories, wanted):
    offsets = np.cumsum([0, *map(len, histories)])
    return Targets(offsets, np.array([item for history in histories for item in history], int), np.array(wanted))


def one_batch(targets):
    (users,) = user_batches(targets, 3, targets.num_users, CPU)
    return users


def table_of(vectors_ND):
    return torch.cat([vectors_ND.new_zeros(1, vectors_ND.shape[1]), vectors_ND])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_ranks_equal_sorting_user_by_user(data):
    draw = data.draw
    num_items, num_users = draw(st.integers(1, 40)), draw(st.integers(1, 7))
    num_branches = draw(st.sampled_from([1, 2, 3]))
    items = st.integers(1, num_items)
    histories = draw(st.lists(st.lists(items, max_size=6), min_size=num_users, max_size=num_users))
    wanted = draw(st.lists(items, min_size=num_users, max_size=num_users))
    repeats = draw(st.booleans())
    # Small integers: scores are exact whatever the order of sums, and ties abound.
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    states = rng.integers(-2, 3, (num_branches, num_users, 3)).astype(np.float32)
    vectors = rng.integers(-2, 3, (num_branches, num_items, 3)).astype(np.float32)
    blocks = ItemBlocks(
        [table_of(torch.from_numpy(branch)) for branch in vectors],
        block_bytes=draw(st.integers(1, 4 * 4 * num_items * num_users)),
        tile=draw(st.sampled_from([1, 2, 16, 64])),
    )

    # Users come shortest history first; their states must come with them.
    served = iter(np.argsort([min(len(history), 3) for history in histories], kind="stable").tolist())

    def rank(users):
        rows = [next(served) for _ in users.target]
        return blocks.ranks([torch.from_numpy(state[rows]) for state in states], users, rank_repeat_targets=repeats)

    heads = heads_of([f"branch {number}" for number in range(num_branches)])
    found = rank_all(rank, heads, everyone(histories, wanted), 3, batch_size=draw(st.integers(1, 7)), device=CPU)
    by_branch = np.einsum("kud,knd->kun", states, vectors)
    fused = by_branch.sum(axis=0) / np.float32(num_branches)
    expected = dict(zip(heads, [fused, *by_branch], strict=False))
    for head, scores in expected.items():
        assert found[head].tolist() == [
            plain_rank(scores[user].tolist(), histories[user], wanted[user], repeats) for user in range(num_users)
        ]


@pytest.mark.parametrize("width", [1, 7, 64, 100, 768])
@pytest.mark.parametrize("num_users", [1, 2, 5, 16, 67])
@pytest.mark.parametrize("block_bytes", [30_000, 300_000, None])
def test_copies_of_one_vector_tie_wherever_they_stand(width, num_users, block_bytes):
    generator = torch.Generator().manual_seed(width * 100 + num_users)
    for num_items in (1, 16, 65, 333, 1000):
        vector = torch.randn(1, width, generator=generator)
        blocks = ItemBlocks([table_of(vector.expand(num_items, -1))] * 3, block_bytes)
        wanted = torch.randint(1, num_items + 1, (num_users,), generator=generator)
        states = [torch.randn(num_users, width, generator=generator) for _ in range(3)]
        users = one_batch(everyone([[]] * num_users, wanted.tolist()))
        assert (blocks.ranks(states, users, rank_repeat_targets=False) == num_items).all()


def test_a_product_whose_sums_depend_on_the_column_is_measured_by_its_own_blocks(monkeypatch):
    """The targets' scores are first taken from a product of their own; where that differs the blocks decide."""

    def uneven(states, items, *, out_HBC):
        score_heads(states, items, out_HBC=out_HBC)
        out_HBC[:, :, 3] += 1.0

    monkeypatch.setattr("odmt.evaluation.blocks.score_heads", uneven)
    vectors = torch.arange(8.0)[:, None]
    blocks = ItemBlocks([table_of(vectors)], block_bytes=4 * 4, tile=4)
    # Scores 0 1 2 4 | 4 5 6 8 in place; the target at column 3 of its block is item 4, with 8, 6, 5, 4 at or above.
    users = one_batch(everyone([[]], [4]))
    assert blocks.ranks([torch.ones(1, 1)], users, rank_repeat_targets=False).tolist() == [[5]]


def test_no_more_scores_are_in_hand_than_the_bound_allows(monkeypatch):
    sizes = []

    def watched(states, items, *, out_HBC):
        sizes.append(out_HBC.numel() * out_HBC.element_size())
        score_heads(states, items, out_HBC=out_HBC)

    monkeypatch.setattr("odmt.evaluation.blocks.score_heads", watched)
    blocks = ItemBlocks([table_of(torch.randn(5000, 2))] * 3, block_bytes=100_000)
    states = [torch.randn(300, 2)] * 3
    blocks.ranks(states, one_batch(everyone([[]] * 300, [1] * 300)), rank_repeat_targets=False)
    assert len(sizes) > 100
    assert max(sizes) <= 100_000


@pytest.mark.parametrize("block_bytes", [256, None])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_item_is_an_error(value, block_bytes):
    vectors = torch.ones(200, 2)
    vectors[150, 1] = value
    blocks = ItemBlocks([table_of(vectors)], block_bytes)
    with pytest.raises(NonFiniteError, match="score is NaN or infinite"):
        blocks.ranks([torch.zeros(1, 2)], one_batch(everyone([[]], [1])), rank_repeat_targets=False)


@pytest.mark.parametrize("block_bytes", [256, None])
def test_an_overflow_in_the_product_is_an_error(block_bytes):
    vectors = torch.ones(200, 2)
    vectors[150] = 1e20
    blocks = ItemBlocks([table_of(vectors)], block_bytes)
    with pytest.raises(NonFiniteError, match="score is NaN or infinite"):
        blocks.ranks([torch.full((1, 2), 1e20)], one_batch(everyone([[]], [1])), rank_repeat_targets=False)


def test_an_overflow_in_the_mean_is_an_error():
    blocks = ItemBlocks([table_of(torch.full((4, 1), FLOAT32_MAX / 2))] * 3)
    with pytest.raises(NonFiniteError, match="score is NaN or infinite"):
        blocks.ranks([torch.ones(1, 1)] * 3, one_batch(everyone([[]], [1])), rank_repeat_targets=False)


def test_large_scores_that_do_not_overflow_are_ranked():
    vectors = torch.tensor([[1.0], [3.0], [2.0]]) * 1e19
    blocks = ItemBlocks([table_of(vectors)])
    users = one_batch(everyone([[]], [3]))
    assert blocks.ranks([torch.full((1, 1), 1e19)], users, rank_repeat_targets=False).tolist() == [[2]]
