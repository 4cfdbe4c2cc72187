import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_arrays import plain_gather, ragged, small_arrays

from odmt.data.split import DevelopmentSplit, item_probabilities
from odmt.errors import ConfigError
from odmt.training.batches import CandidateRule, Shard, TrainingBatches, held_columns
from odmt.training.features import ItemFeatures

CPU = torch.device("cpu")


def make_batches(arrays, rule=None, *, batch_size=8, accumulate=1, shard=None, seed=1, **features):
    return TrainingBatches(
        arrays.split,
        ItemFeatures(arrays.split.item_rows, arrays.text, arrays.image, CPU, **features),
        batch_size=batch_size,
        seed=seed,
        rule=rule,
        batches_per_step=accumulate,
        shard=shard,
    )


def split_of(sequences, num_items, max_seq_len):
    return DevelopmentSplit(
        item_rows=np.arange(num_items, dtype=np.int32),
        offsets=np.cumsum([0, *map(len, sequences)]),
        items=np.concatenate(sequences).astype(np.int32),
        max_seq_len=max_seq_len,
    )


def arrays_of(sequences, num_items, max_seq_len):
    rng = np.random.default_rng(0)
    arrays = small_arrays(items=num_items)
    split = split_of([np.array(sequence) for sequence in sequences], num_items, max_seq_len)
    return arrays._replace(split=split, text=ragged(rng, num_items, 6, 5), image=ragged(rng, num_items, 7, 3))


def numbered_users(count):
    """User u has the training items (2u + 1, 2u + 2), so that a batch tells whose it is."""
    return arrays_of([[2 * user + 1, 2 * user + 2, 1] for user in range(count)], 2 * count, 2)


def users_of(batch):
    """Read the users of ``numbered_users`` off the inputs, in order."""
    return [(item - 1) // 2 for item in batch.item_ids[batch.inputs].tolist()]


def rows_of(batch):
    """Spell a batch out: for every row user, place in the window, input item, next item."""
    layout, candidates = batch.layout, batch.candidates
    items = batch.item_ids.tolist()
    places = zip(layout.user.tolist(), layout.position.tolist(), batch.inputs, candidates.label, strict=True)
    return [(user, position, items[source], items[label]) for user, position, source, label in places]


def plain_rows(windows):
    rows = []
    for user, window in enumerate(windows):
        for position in range(len(window) - 1):
            if window[position] != 0:
                rows.append((user, position, window[position], window[position + 1]))
    return rows


def test_every_user_stands_in_an_epoch_once():
    steps = list(make_batches(numbered_users(30), batch_size=7)(1))
    assert sorted(user for (batch,) in steps for user in users_of(batch)) == list(range(30))


def test_every_epoch_has_an_order_of_its_own_and_the_same_again():
    batches = make_batches(numbered_users(30))
    orders = [[user for (batch,) in batches(epoch) for user in users_of(batch)] for epoch in (1, 2, 1)]
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


def test_another_seed_gives_another_order():
    first, second = (make_batches(numbered_users(30), seed=seed) for seed in (1, 2))
    assert [users_of(batch) for (batch,) in first(1)] != [users_of(batch) for (batch,) in second(1)]


@pytest.mark.parametrize("kind", ["in-batch", "full", "sampled"])
@pytest.mark.parametrize("reads", ["all", "summaries", "nothing"])
def test_a_batch_finds_every_input_and_every_next_item_again(kind, reads):
    arrays = small_arrays()
    batches = make_batches(arrays, CandidateRule(kind, num_negatives=7), reads=reads)
    windows = batches.windows_US[:6]
    assert rows_of(batches.batch([windows], (1, 0))) == plain_rows(windows.tolist())


@pytest.mark.parametrize("kind", ["in-batch", "full", "sampled"])
def test_every_item_is_encoded_once_with_its_own_features(kind):
    arrays = small_arrays()
    for (batch,) in make_batches(arrays, CandidateRule(kind, num_negatives=50), items_per_group=4)(1):
        items = batch.item_ids.numpy()
        assert len(set(items.tolist())) == len(items)
        assert [len(group.text) for group in batch.groups] == [len(group.image) for group in batch.groups]
        assert sum(len(group.text) for group in batch.groups) == len(items)
        text = np.concatenate([group.text[:, 0].numpy() for group in batch.groups])
        np.testing.assert_array_equal(text, plain_gather(arrays.text, arrays.split.item_rows[items - 1])[0][:, 0])


def test_in_batch_encodes_the_batch_s_own_items_and_no_other():
    batches = make_batches(small_arrays())
    batch = batches.batch([batches.windows_US[:3]])
    assert sorted(batch.item_ids.tolist()) == sorted({item for item in batches.windows_US[:3].ravel().tolist() if item})


def test_in_batch_counts_every_slot_and_corrects_by_popularity():
    arrays = arrays_of([[1, 2, 3, 1], [2, 3, 4, 1], [2, 5, 1]], 5, 3)  # training items [1 2 3], [2 3 4], [2 5]
    batches = make_batches(arrays, CandidateRule(popularity_power=1.0), batch_size=3)
    batch = batches.batch([batches.windows_US])
    counts = {1: 1, 2: 3, 3: 2, 4: 1, 5: 1}
    items = batch.item_ids.tolist()
    np.testing.assert_allclose(batch.candidates.log_count, np.log([counts[item] for item in items]), rtol=1e-6)
    np.testing.assert_allclose(batch.candidates.log_popularity, np.log([counts[item] / 8 for item in items]), rtol=1e-6)
    assert batch.num_rows == 5


def test_half_a_popularity_power_corrects_by_the_root_of_the_count():
    arrays = arrays_of([[1, 2, 3, 1], [2, 3, 4, 1], [2, 5, 1]], 5, 3)
    batches = make_batches(arrays, CandidateRule(popularity_power=0.5))
    batch = batches.batch([batches.windows_US])
    expected = np.log(item_probabilities(arrays.split, 0.5))[batch.item_ids.numpy()]
    np.testing.assert_allclose(batch.candidates.log_popularity, expected, rtol=1e-6)


def test_full_has_a_column_for_every_item_of_the_catalogue_and_hides_none():
    batches = make_batches(small_arrays(items=20), CandidateRule("full"))
    batch = batches.batch([batches.windows_US[:2]])
    assert sorted(batch.item_ids.tolist()) == list(range(1, 21))
    assert batch.candidates.held is None
    assert batch.candidates.log_count.tolist() == [0.0] * 20
    assert batch.candidates.log_popularity.tolist() == [0.0] * 20


def test_sampled_counts_draws_and_only_draws():
    batches = make_batches(small_arrays(items=20), CandidateRule("sampled", num_negatives=15))
    own = set(batches.windows_US[:2].ravel().tolist()) - {0}
    batch = batches.batch([batches.windows_US[:2]], (1, 0))
    counts = dict(zip(batch.item_ids.tolist(), batch.candidates.log_count.exp().round().int().tolist(), strict=True))
    assert sum(counts.values()) == 15
    assert own <= counts.keys()
    assert {item for item, count in counts.items() if count == 0} <= own
    assert batch.candidates.held is None


def test_sampled_negatives_are_uniform():
    batches = make_batches(small_arrays(items=20), CandidateRule("sampled", num_negatives=20_000))
    batch = batches.batch([batches.windows_US[:2]], (1, 0))
    counts = batch.candidates.log_count.exp().numpy()
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_negatives_are_a_function_of_seed_epoch_and_step():
    arrays = small_arrays(items=20)

    def drawn(seed, epoch):
        batches = make_batches(arrays, CandidateRule("sampled", num_negatives=12), seed=seed)
        found = []
        for (batch,) in batches(epoch):
            order = batch.item_ids.argsort()
            found.append((batch.item_ids[order].tolist(), batch.candidates.log_count[order].tolist()))
        return found

    assert drawn(1, 1) == drawn(1, 1)
    assert drawn(1, 1) != drawn(1, 2)
    assert drawn(1, 1) != drawn(2, 1)
    batches = make_batches(arrays, CandidateRule("sampled", num_negatives=12))
    window = [batches.windows_US[:2]]
    draws = [batches.batch(window, draw).candidates.log_count.tolist() for draw in ((1, 0, 0, 0), (1, 1, 0, 0))]
    assert draws[0] != draws[1]


@settings(max_examples=40, deadline=None)
@given(
    users=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    accumulate=st.integers(1, 4),
    processes=st.integers(1, 3),
    epoch=st.integers(1, 3),
)
def test_steps_share_all_users_evenly(users, batch_size, accumulate, processes, epoch):
    arrays = numbered_users(users)
    shards = [Shard(rank, processes) for rank in range(processes)]
    parts = accumulate * processes
    if users < parts:
        with pytest.raises(ConfigError, match=f"{parts} batches a step, but the data set has {users} users"):
            make_batches(arrays, batch_size=batch_size, accumulate=accumulate, shard=shards[0])
        return
    made = [make_batches(arrays, batch_size=batch_size, accumulate=accumulate, shard=shard) for shard in shards]
    epochs = [list(batches(epoch)) for batches in made]
    assert [len(steps) for steps in epochs] == [len(batches) for batches in made] == [len(epochs[0])] * processes
    seen = []
    for number, together in enumerate(zip(*epochs, strict=True)):
        sizes = [batch.layout.num_users for step in together for batch in step]
        assert len(sizes) == parts
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
        if number < len(epochs[0]) - 1:
            assert sizes == [batch_size] * parts
        else:
            assert sum(sizes) < batch_size * parts + 2 * parts
        seen += [user for step in together for batch in step for user in users_of(batch)]
    assert sorted(seen) == list(range(users))


@pytest.mark.parametrize(("users", "sizes"), [(16, [8, 8]), (17, [8, 9]), (19, [8, 11]), (20, [8, 8, 4]), (3, [3])])
def test_leftovers_too_few_to_split_join_the_step_before(users, sizes):
    batches = make_batches(numbered_users(users), batch_size=4, accumulate=2)
    assert [sum(batch.layout.num_users for batch in step) for step in batches(1)] == sizes


@pytest.mark.parametrize("accumulate", [1, 2])
def test_shards_have_the_batches_of_one_process_that_accumulates_as_many(accumulate):
    arrays = small_arrays(users=31)
    alone = make_batches(arrays, batch_size=4, accumulate=2 * accumulate)
    shards = [make_batches(arrays, batch_size=4, accumulate=accumulate, shard=Shard(rank, 2)) for rank in range(2)]
    for whole, first, second in zip(alone(2), shards[0](2), shards[1](2), strict=True):
        interleaved = [batch for pair in zip(first, second, strict=True) for batch in pair]
        assert [rows_of(batch) for batch in interleaved] == [rows_of(batch) for batch in whole]


def test_gathered_shards_have_the_columns_of_all_in_rank_order():
    arrays = small_arrays(users=31)
    rule = CandidateRule(gathered=True)
    shards = [make_batches(arrays, rule, batch_size=4, shard=Shard(rank, 2)) for rank in range(2)]
    local = [make_batches(arrays, batch_size=4, shard=Shard(rank, 2)) for rank in range(2)]
    for steps in zip(*(batches(1) for batches in (*shards, *local)), strict=True):
        (first,), (second,), (first_alone,), (second_alone,) = steps
        every_id = torch.cat([first.item_ids, second.item_ids])
        assert first.gathered == second.gathered == (len(first.item_ids), len(second.item_ids))
        for batch, alone in ((first, first_alone), (second, second_alone)):
            assert torch.equal(batch.item_ids, alone.item_ids)
            assert torch.equal(every_id[batch.candidates.label], alone.item_ids[alone.candidates.label])
        assert first.num_rows == second.num_rows == (len(first.inputs) + len(second.inputs)) / 2
        assert torch.equal(first.candidates.log_count, second.candidates.log_count)
        assert first.candidates.held.shape == (first.layout.num_users, len(every_id))


def test_a_batch_larger_than_the_data_is_one_step_of_all_users():
    (step,) = make_batches(numbered_users(5), batch_size=1000)(1)
    assert sorted(users_of(step[0])) == [0, 1, 2, 3, 4]


def test_fewer_users_than_batches_in_a_step_are_refused():
    with pytest.raises(ConfigError, match="accumulate_batches x data_parallel: 6 batches a step, but the data set has"):
        make_batches(numbered_users(5), accumulate=3, shard=Shard(0, 2))


def test_one_input_position_keeps_the_last_two_training_items():
    batches = make_batches(arrays_of([[1, 2, 3, 1], [4, 5, 1]], 5, 1))
    assert rows_of(batches.batch([batches.windows_US])) == [(0, 0, 2, 3), (1, 0, 4, 5)]
    assert batches.batch([batches.windows_US]).layout.longest == 1


@pytest.mark.parametrize("kind", ["in-batch", "full", "sampled"])
def test_one_item_in_the_whole_catalogue_makes_a_batch(kind):
    batches = make_batches(arrays_of([[1, 1, 1, 1]] * 3, 1, 2), CandidateRule(kind, num_negatives=4))
    ((batch,),) = batches(1)
    assert batch.item_ids.tolist() == [1]
    assert batch.inputs.tolist() == batch.candidates.label.tolist() == [0] * 6


def test_rows_of_unequal_users_stand_right_aligned_in_their_windows():
    batches = make_batches(arrays_of([[1, 2, 3, 4, 1], [5, 6, 1]], 6, 4))
    layout = batches.batch([batches.windows_US]).layout
    assert layout.user.tolist() == [0, 0, 0, 1]
    assert (layout.cell - layout.user * layout.longest).tolist() == [0, 1, 2, 0]
    assert layout.position.tolist() == [1, 2, 3, 3]
    assert layout.last.tolist() == [2, 3]
    assert (layout.num_users, layout.longest) == (2, 3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.integers(1, 3))
def test_held_columns_are_those_of_a_plain_loop(seed, parts):
    rng = np.random.default_rng(seed)
    batches = make_batches(small_arrays(items=20))
    slots = [np.where(rng.random((3, 5)) < 0.3, 0, rng.integers(1, 9, (3, 5))) for _ in range(parts)]
    slots = [np.where(part.any(axis=1, keepdims=True), part, 1) for part in slots]
    columns = [batches._columns(part, ()) for part in slots]
    every_id = [item for part in columns for item in part.item_ids.tolist()]
    expected = [[item in row for item in every_id] for row in slots[0].tolist()]
    np.testing.assert_array_equal(held_columns(slots[0], columns), expected)
