import numpy as np
import pytest

from odmt.features.ragged import RaggedFeatures

FEATURES = RaggedFeatures(np.arange(8, dtype=np.float16).reshape(4, 2), np.array([0, 1, 1, 4]))


def test_rows_are_padded_to_the_longest():
    padded, mask = FEATURES.gather(np.array([2, 0]))
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert padded.tolist() == [[[2, 3], [4, 5], [6, 7]], [[0, 1], [0, 0], [0, 0]]]
    assert padded.dtype == np.float32


def test_a_gathered_copy_may_be_written_to():
    padded, _ = FEATURES.gather(np.array([0]))
    padded += 1
    assert FEATURES.tokens[0].tolist() == [0, 1]


def test_the_summary_is_the_first_token():
    assert FEATURES.summary(np.array([2, 0])).tolist() == [[2, 3], [0, 1]]


def test_a_row_without_tokens_has_no_summary():
    with pytest.raises(IndexError, match="catalogue row 1 has no token"):
        FEATURES.summary(np.array([1]))
