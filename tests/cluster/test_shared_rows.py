import zlib

import numpy as np
import pytest

from odmt.cluster.shared_features import check_sample, key_of, row_checksums
from odmt.config import DataConfig, ImageEncoderConfig, TextEncoderConfig
from odmt.errors import SharedFeaturesError
from odmt.features.ragged import RaggedFeatures


def features_of(rows):
    tokens = np.arange(rows * 6, dtype=np.float16).reshape(rows * 2, 3)
    return RaggedFeatures.of(tokens, np.arange(rows + 1) * 2)


def test_a_row_is_checked_by_the_crc_of_its_bytes_and_an_empty_row_by_zero():
    features = RaggedFeatures.of(np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float16), np.array([0, 2, 2, 3]))
    first = zlib.crc32(np.array([1, 2, 3, 4], dtype=np.float16).tobytes())
    last = zlib.crc32(np.array([5, 6], dtype=np.float16).tobytes())
    assert row_checksums(features).tolist() == [first, 0, last]
    assert row_checksums(features, np.array([2, 0])).tolist() == [last, first]


def test_a_changed_row_is_found_when_it_is_in_the_sample():
    features = features_of(10)
    checksums = row_checksums(features)
    check_sample(features, checksums, 0)
    features.tokens_of(3)[0] += 1
    with pytest.raises(SharedFeaturesError, match=r"1 of 10 checked rows differ .* first is catalogue row 3"):
        check_sample(features, checksums, 0)


def test_the_sample_rotates_until_every_row_has_been_seen():
    features = features_of(200)
    checksums = row_checksums(features)
    features.tokens_of(150)[0] += 1
    found = []
    for turn in range(20):
        try:
            check_sample(features, checksums, turn, rows=20)
        except SharedFeaturesError:
            found.append(turn)
    assert found == [7, 17]  # row 150 is among the rows 140 to 159: every tenth turn


def test_different_settings_have_different_keys():
    data = DataConfig()
    sections = [(data,), (data, TextEncoderConfig()), (data, ImageEncoderConfig()), (DataConfig(max_seq_len=3),)]
    assert len({key_of(*found) for found in sections}) == 4
    assert key_of(data, TextEncoderConfig()) == key_of(DataConfig(), TextEncoderConfig())
