import numpy as np
import pytest

from odmt.features.ragged import FeatureShard, RaggedFeatures

TOKENS = np.arange(12, dtype=np.float16).reshape(6, 2)


def shard(tokens, offsets, rows):
    return FeatureShard(tokens, np.array(offsets), np.array(rows, dtype=np.int32))


def test_shards_become_a_catalogue_by_hand():
    """Row 4 has tokens 0 and 1 of the first shard, row 0 none there, row 2 token 2; row 3 has the second shard."""
    features = RaggedFeatures.joined(
        [shard(TOKENS[:3], [0, 2, 2, 3], [4, 0, 2]), shard(TOKENS[3:], [0, 3], [3])], num_rows=6
    )
    assert features.lengths.tolist() == [0, 0, 1, 3, 2, 0]
    assert features.tokens_of(4).tolist() == [[0, 1], [2, 3]]
    assert features.tokens_of(2).tolist() == [[4, 5]]
    assert features.tokens_of(3).tolist() == [[6, 7], [8, 9], [10, 11]]
    assert [len(features.tokens_of(row)) for row in (0, 1, 5)] == [0, 0, 0]
    assert (features.width, features.num_rows, features.nbytes) == (2, 6, 24)


def test_one_array_is_one_shard_of_all_rows():
    features = RaggedFeatures.of(TOKENS, np.array([0, 2, 2, 6]))
    assert [features.tokens_of(row).tolist() for row in range(3)] == [TOKENS[:2].tolist(), [], TOKENS[2:].tolist()]
    assert [shard.rows.tolist() for shard in features.shards] == [[0, 1, 2]]


def test_tokens_are_not_copied():
    features = RaggedFeatures.of(TOKENS, np.array([0, 2, 6]))
    assert np.shares_memory(features.tokens_of(1), TOKENS)


def test_a_catalogue_without_features_has_rows_without_tokens():
    features = RaggedFeatures.joined([shard(TOKENS[:0], [0], [])], num_rows=2)
    assert (features.lengths.tolist(), features.width, features.nbytes) == ([0, 0], 2, 0)


def test_a_row_in_two_places_is_refused():
    with pytest.raises(ValueError, match="catalogue row 3 is in two places"):
        RaggedFeatures.joined([shard(TOKENS[:2], [0, 1, 2], [1, 3]), shard(TOKENS[2:], [0, 4], [3])], num_rows=5)
