import numpy as np
import pytest
from small_store import catalogue_of, write_store

from odmt.config import DataConfig, TextEncoderConfig
from odmt.data.interactions import Interactions, write_dataset
from odmt.errors import FeatureStoreError, MissingDataError
from odmt.features.records import View
from odmt.tuning.preflight import _store_bytes

ENCODER = TextEncoderConfig(model="some/hub-model")
DATA = DataConfig(dataset="arts", min_seq_len=3)
CATALOGUE = catalogue_of("abc")
ARRAYS = [np.ones((2, 4), dtype=np.float16)] * 3


@pytest.fixture
def prepared(home):
    sequence = Interactions(["u"], np.array([0, 3]), np.array([2, 0, 1], dtype=np.int32))
    write_dataset(home.dataset("arts"), sequence, CATALOGUE)
    return home


def test_a_whole_store_counts_with_its_place_on_the_disk_and_is_not_read(prepared, monkeypatch):
    path = write_store(prepared, "arts", ENCODER, CATALOGUE, ARRAYS)
    monkeypatch.setattr(View, "get", lambda self, key: pytest.fail(f"{key} was read"))
    assert _store_bytes(prepared, DATA, ENCODER) == path.stat().st_blocks * 512


def test_missing_partial_and_stale_features_are_told_with_the_command(prepared):
    command = r"run: python launch/prepare\.py --dataset arts"
    with pytest.raises(MissingDataError, match=f"no text features of some/hub-model .*{command}"):
        _store_bytes(prepared, DATA, ENCODER)
    write_store(prepared, "arts", ENCODER, CATALOGUE, [*ARRAYS[:2], None], complete=False)
    with pytest.raises(FeatureStoreError, match=f"extraction was cut off; {command}"):
        _store_bytes(prepared, DATA, ENCODER)
    write_store(prepared, "arts", ENCODER, CATALOGUE, [*ARRAYS[:2], None])
    with pytest.raises(FeatureStoreError, match=f"has no features of item 'c'; {command}"):
        _store_bytes(prepared, DATA, ENCODER)
    write_store(prepared, "arts", ENCODER, CATALOGUE._replace(titles=["x"] * 3), ARRAYS)
    with pytest.raises(FeatureStoreError, match=f"features of item 'a' are stale: its source has .*{command}"):
        _store_bytes(prepared, DATA, ENCODER)
