import numpy as np
import pytest
from fake_search import write_space
from small_store import catalogue_of, write_store

from odmt.config import DataConfig, TextEncoderConfig
from odmt.data.interactions import Interactions, write_dataset
from odmt.errors import FeatureStoreError, MissingDataError
from odmt.experiment import arrays
from odmt.features import store
from odmt.features.images import digest_of
from odmt.features.records import View
from odmt.tuning.preflight import _store_bytes, prepared_inputs
from odmt.tuning.space import load_space

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
    assert _store_bytes(prepared, DATA, ENCODER, np.arange(3)) == path.stat().st_blocks * 512


def test_missing_partial_and_stale_features_are_told_with_the_command(prepared):
    command = r"run: python launch/prepare\.py --dataset arts"
    with pytest.raises(MissingDataError, match=f"no text features of some/hub-model .*{command}"):
        _store_bytes(prepared, DATA, ENCODER, np.arange(3))
    write_store(prepared, "arts", ENCODER, CATALOGUE, [*ARRAYS[:2], None], complete=False)
    with pytest.raises(FeatureStoreError, match=f"extraction was cut off; {command}"):
        _store_bytes(prepared, DATA, ENCODER, np.arange(3))
    write_store(prepared, "arts", ENCODER, CATALOGUE, [*ARRAYS[:2], None])
    with pytest.raises(FeatureStoreError, match=f"has no features of item 'c'; {command}"):
        _store_bytes(prepared, DATA, ENCODER, np.arange(3))
    write_store(prepared, "arts", ENCODER, CATALOGUE._replace(titles=["x"] * 3), ARRAYS)
    with pytest.raises(FeatureStoreError, match=f"features of item 'a' are stale: its source has .*{command}"):
        _store_bytes(prepared, DATA, ENCODER, np.arange(3))


def test_a_data_set_is_split_once_for_all_its_encoders(prepared, tmp_path, monkeypatch):
    text = """
fixed: {data: {dataset: arts, min_seq_len: 4}, features: {image: {model: some/image-model}}}
incumbent: {features.text.layer: 3}
axes:
  features.text.layer: {type: choice, values: [3, 6, 12]}
scheduler: {name: none}
"""
    sequence = Interactions(["u"], np.array([0, 5]), np.array([2, 0, 1, 0, 2], dtype=np.int32))
    write_dataset(prepared.dataset("arts"), sequence, CATALOGUE)
    space = load_space(write_space(tmp_path, text))
    titles = {item: digest_of(title.encode()) for item, title in zip(*CATALOGUE, strict=True)}
    monkeypatch.setattr(store, "image_digests", lambda folder: titles)
    for config in space.loaded_configs():
        for encoder in (config.features.text, config.features.image):
            write_store(prepared, "arts", encoder, CATALOGUE, ARRAYS)
    splits = []
    split = arrays.split_interactions
    monkeypatch.setattr(arrays, "split_interactions", lambda *given: splits.append(given) or split(*given))
    inputs = prepared_inputs(prepared, space)
    assert len(splits) == 1
    assert len(inputs.run_digests) == 3
    assert inputs.run_digests == sorted(arrays.arrays_digest(prepared, config) for config in space.loaded_configs())
