import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_arrays import in_shards, plain_gather, ragged

from odmt.errors import DataError
from odmt.features.ragged import RaggedFeatures
from odmt.training.features import ItemFeatures, lives_on_device
from odmt.training.modality import Modality

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ROWS = np.array([3, 5, 0, 8, 9, 2, 7])
"""Catalogue rows of the items 1..7."""


def of_lengths(lengths, width, seed=0):
    tokens = np.random.default_rng(seed).standard_normal((sum(lengths), width)).astype(np.float16)
    return RaggedFeatures.of(tokens, np.cumsum([0, *lengths]))


TEXT = of_lengths([4, 1, 2, 5, 3, 0, 2, 1, 5, 2], 6)
IMAGE = of_lengths([3, 1, 0, 3, 3, 2, 1, 3, 1, 2], 5, seed=1)


def make(text=TEXT, image=IMAGE, device=CPU, **options):
    return ItemFeatures(ROWS, text, image, device, **options)


def expected_of(features, item, longest, limit=None):
    """One item's tokens and mask, padded to ``longest``, by the plain gather."""
    values, mask = plain_gather(features, ROWS[[item - 1]])
    values, mask = values[0, :limit], mask[0, :limit]
    padding = longest - len(mask)
    return np.pad(values, ((0, padding), (0, 0))), np.pad(mask, (0, padding))


def assert_groups_equal_the_plain_gather(groups, item_ids, limit=None, text=TEXT, image=IMAGE):
    assert sum(len(group.text) for group in groups) == len(item_ids)
    items = iter(item_ids)
    for group in groups:
        for row in range(len(group.text)):
            item = next(items)
            for features, tokens, mask in ((text, group.text, group.text_mask), (image, group.image, group.image_mask)):
                values, real = expected_of(features, item, tokens.shape[1], limit)
                assert tokens.dtype == torch.float16  # as they are kept: widened where they are encoded
                np.testing.assert_array_equal(tokens[row], values)
                np.testing.assert_array_equal(np.ones_like(real) if mask is None else mask[row], real)


@settings(max_examples=40, deadline=None)
@given(item_ids=st.lists(st.integers(1, 7), min_size=1, max_size=7, unique=True), size=st.none() | st.integers(1, 9))
def test_groups_are_the_plain_gather_of_each_item(item_ids, size):
    features = make(items_per_group=size)
    item_ids = np.array(item_ids)
    item_ids = item_ids[features.arranged(item_ids)]
    groups = features.groups(item_ids)
    assert_groups_equal_the_plain_gather(groups, item_ids)
    assert size is None or all(len(group.text) <= size for group in groups)


@pytest.mark.parametrize("size", [None, 1, 3, 100])
def test_summaries_are_the_first_token_of_each_item_and_no_more(size):
    features = make(reads="summaries", items_per_group=size)
    groups = features.groups(np.arange(1, 8))
    assert_groups_equal_the_plain_gather(groups, np.arange(1, 8), limit=1)
    assert all(group.text.shape[1] == group.image.shape[1] == 1 for group in groups)


def test_tokens_and_masks_by_hand():
    """Catalogue rows 0, 1, 2 hold 1, 0 and 3 tokens of width 2."""
    text = RaggedFeatures.of(np.arange(8, dtype=np.float16).reshape(4, 2), np.array([0, 1, 1, 4]))
    image = RaggedFeatures.of(np.ones((3, 1), dtype=np.float16), np.arange(4))
    (group,) = ItemFeatures(np.array([2, 1, 0]), text, image, CPU, items_per_group=3).groups(np.array([1, 2, 3]))
    assert group.text.tolist() == [[[2, 3], [4, 5], [6, 7]], [[0, 0]] * 3, [[0, 1], [0, 0], [0, 0]]]
    assert group.text_mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert group.image_mask is None
    group.text.add_(1)
    assert text.tokens_of(0).tolist() == [[0, 1]]


def test_an_encoder_that_reads_nothing_gets_the_number_of_items_and_no_features():
    (group,) = make(reads="nothing").groups(np.arange(1, 8))
    assert group.text.shape == group.image.shape == (7, 1, 0)
    assert group.text_mask is group.image_mask is None


def test_arranging_is_a_permutation_that_puts_like_lengths_together():
    features = make()
    item_ids = np.array([7, 3, 1, 2, 4])
    order = features.arranged(item_ids)
    assert sorted(order) == [0, 1, 2, 3, 4]
    lengths = [(features.image.lengths[item - 1], features.text.lengths[item - 1]) for item in item_ids[order]]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("reads", ["summaries", "nothing"])
def test_without_padding_to_save_items_stay_in_their_order(reads):
    assert make(reads=reads).arranged(np.array([7, 3, 1])).tolist() == [0, 1, 2]


def test_a_group_is_padded_to_its_own_longest_item():
    features = make(items_per_group=1)
    item_ids = np.arange(1, 8)
    widths = [group.text.shape[1] for group in features.groups(item_ids)]
    assert widths == [max(1, length) for length in features.text.lengths]


def test_an_item_without_text_has_zeros_and_no_real_text_token():
    (group,) = make().groups(np.array([2]))  # row 5: no text, 2 image tokens
    assert group.text.shape == (1, 1, 6)
    assert not group.text.any()
    assert group.text_mask.tolist() == [[False]]
    assert group.image_mask is None


def test_padding_is_zero_even_where_the_catalogue_s_first_token_is_not_a_number():
    tokens = TEXT.shards[0].tokens.copy()
    tokens[0] = np.nan
    (group,) = make(text=RaggedFeatures.of(tokens, TEXT.shards[0].offsets)).groups(np.array([1, 2]))
    assert torch.isfinite(group.text).all()


@pytest.mark.parametrize("reads", ["all", "summaries"])
def test_a_catalogue_without_any_text_gathers_zeros(reads):
    text = of_lengths([0] * 10, 6)
    image = of_lengths([2] * 10, 5)
    features = make(text, image, reads=reads)
    groups = features.groups(np.arange(1, 8))
    limit = 1 if reads == "summaries" else None
    assert_groups_equal_the_plain_gather(groups, np.arange(1, 8), limit, text=text, image=image)
    assert all(group.text.shape[1:] == (1, 6) for group in groups)


def test_an_item_with_neither_text_nor_image_is_named():
    image = of_lengths([3, 1, 0, 3, 3, 0, 1, 3, 1, 2], 5)
    with pytest.raises(DataError, match="1 items have neither a text nor an image token, the first in catalogue row 5"):
        make(image=image)
    make(image=image, reads="nothing")


def test_rows_without_features_outside_the_split_do_not_matter():
    text, image = of_lengths([4, 0, 2, 5, 3, 1, 2, 1, 5, 2], 6), of_lengths([3, 0, 1, 3, 3, 2, 1, 3, 1, 2], 5)
    make(text, image)  # row 1 belongs to no item


@pytest.mark.parametrize("groups", [[range(10)], [[9, 3, 5, 8], [0, 2, 1], [7, 4, 6]]])
def test_read_only_features_give_no_warning_and_are_never_written(groups):
    text, image = (in_shards(part, groups) for part in (TEXT, IMAGE))
    for shard in (*text.shards, *image.shards):
        shard.tokens.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = make(text, image)
        for group in features.groups(np.arange(1, 8)):
            group.text.fill_(7.0)
            group.image.fill_(7.0)
    for row in range(10):
        np.testing.assert_array_equal(text.tokens_of(row), TEXT.tokens_of(row))
        np.testing.assert_array_equal(image.tokens_of(row), IMAGE.tokens_of(row))


def test_float32_features_are_copied_too():
    text = RaggedFeatures.of(TEXT.shards[0].tokens.astype(np.float32), TEXT.shards[0].offsets)
    (group,) = make(text=text).groups(np.arange(1, 8))
    group.text.fill_(7.0)
    np.testing.assert_array_equal(text.shards[0].tokens, TEXT.shards[0].tokens)


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("reads", ["all", "summaries", "nothing"])
def test_chunks_hold_every_item_once(size, reads):
    features = make(reads=reads)
    chunks = list(features.chunks(size))
    assert sorted(torch.cat([item_ids for item_ids, _ in chunks]).tolist()) == list(range(1, 8))
    for item_ids, groups in chunks:
        assert len(item_ids) <= size
        assert sum(len(group.text) for group in groups) == len(item_ids)
        if reads == "all":
            assert_groups_equal_the_plain_gather(groups, item_ids.tolist())


def test_summaries_of_all_items_stand_in_id_order():
    text, image = of_lengths([2] * 10, 6), of_lengths([3] * 10, 5)
    found = make(text, image).summaries()
    np.testing.assert_array_equal(found[0], plain_gather(text, ROWS)[0][:, 0])
    np.testing.assert_array_equal(found[1], plain_gather(image, ROWS)[0][:, 0])


@pytest.mark.parametrize("start", ["text", "text+image"])
def test_an_item_without_a_text_token_cannot_start_the_id_table(start):
    sentence = r"1 items, the first with compact id 2, have no text token .* as model.id_init text.* wants"
    with pytest.raises(DataError, match=sentence):
        make(image=of_lengths([3] * 10, 5)).check_summaries(start)


@pytest.mark.parametrize("start", ["image", "random"])
def test_only_the_modalities_that_the_id_table_starts_from_are_asked_for(start):
    make(image=of_lengths([3] * 10, 5)).check_summaries(start)


def test_an_encoder_of_summaries_keeps_no_other_tokens():
    features = make(reads="summaries")
    assert [len(part) for part in features.text.parts] == [6]  # of seven items one has no text


def test_a_cpu_s_groups_hold_fewer_items_where_items_are_longer():
    rng = np.random.default_rng(0)
    short, long = (
        ItemFeatures(np.arange(400), ragged(rng, 400, 6, longest), ragged(rng, 400, 6, 2), CPU, width=1 << 12)
        for longest in (4, 60)
    )
    item_ids = np.arange(1, 401)
    sizes = [max(len(group.text) for group in one.groups(item_ids)) for one in (short, long)]
    assert sizes[0] > sizes[1] >= 8


@pytest.mark.parametrize(
    ("residence", "device", "num_bytes", "expected"),
    [
        ("auto", GPU, 500, True),
        ("auto", GPU, 501, False),
        ("device", GPU, 10_000, True),
        ("host", GPU, 1, False),
        ("auto", CPU, 1, False),
        ("device", CPU, 1, False),
    ],
)
def test_features_live_on_a_gpu_if_asked_or_if_they_fit_in_half_of_it(
    monkeypatch, residence, device, num_bytes, expected
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert lives_on_device(residence, num_bytes, device) is expected


def test_tokens_that_are_on_the_gpu_are_not_moved_again_whatever_its_number():
    """``cuda`` and ``cuda:0`` compare unequal; only host memory can be pinned."""
    features = make()
    features.device = GPU
    there = SimpleNamespace(device=torch.device("cuda", 0))  # has no pin_memory
    assert features._moved(there) is there
    assert features._moved(None) is None


def test_a_limit_caps_the_tokens_of_each_item():
    modality = Modality(TEXT, ROWS)
    tokens, mask = modality.gather(np.array([0, 1, 5]), 2)
    assert tokens.shape == (3, 2, 6)
    assert mask.tolist() == [[True, True], [False, False], [True, True]]
    np.testing.assert_array_equal(tokens[0], TEXT.tokens_of(3)[:2])
