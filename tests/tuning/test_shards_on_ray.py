"""Features from real stores, in several shards, on a real Ray."""

import numpy as np
import pytest
import torch
from fake_search import fake_inputs, fake_split, options
from small_arrays import small_arrays, tokens_by_row, without_times
from small_store import catalogue_of, write_store

from odmt.cluster.connect import choose_place, connect, disconnect
from odmt.cluster.shared_features import Loaders, arrays_for, check_all, check_sample, row_checksums, share
from odmt.config import TextEncoderConfig
from odmt.errors import FeatureStoreError, SharedFeaturesError
from odmt.experiment.run import training_run
from odmt.features.records import RecordFile
from odmt.features.shards import plan_shards
from odmt.tuning.driver import run_study
from odmt.tuning.preflight import Source
from odmt.tuning.space import load_space
from odmt.tuning.study import read_study

pytestmark = pytest.mark.slow

ROWS = small_arrays().text.num_rows
CATALOGUE = catalogue_of(f"item{number}" for number in range(ROWS))  # keys in another order: item0, item1, item10, ...
UNUSED = [0, 1]
"""Rows that the split has no item of; they have no features."""


def encoder_of(encoder):
    """Both stores hold features of titles: pictures would need an image store."""
    return TextEncoderConfig(model="a/text" if isinstance(encoder, TextEncoderConfig) else "an/image")


def stored_plan(home, data, encoder):
    rows = np.setdiff1d(np.arange(ROWS), UNUSED)
    return plan_shards(home, "stored", encoder_of(encoder), CATALOGUE, rows, shard_bytes=400)


LOADERS = Loaders(split=fake_split, plan=stored_plan)


@pytest.fixture
def stores(home):
    arrays = small_arrays()
    paths = []
    for model, features in (("a/text", arrays.text), ("an/image", arrays.image)):
        held = [None if row in UNUSED else tokens for row, tokens in sorted(tokens_by_row(features).items())]
        paths.append(write_store(home, "stored", TextEncoderConfig(model=model), CATALOGUE, held))
    return paths


@pytest.fixture
def shared(home, stores, space, on_ray):
    connect(choose_place("attach"), feature_bytes=0)
    yield share(home, list(space.loaded_configs()), LOADERS)
    disconnect()


def test_shards_arrive_as_read_only_views_with_the_checksums_of_their_rows(space, shared):
    arrays, checked = arrays_for(shared, space.incumbent_config())
    for features, expected, (same, checksums) in zip(arrays[1:], small_arrays()[1:], checked, strict=True):
        assert features is same
        assert len(features.shards) > 2
        assert not any(shard.tokens.flags.writeable for shard in features.shards)
        held = tokens_by_row(expected)
        for row in range(ROWS):
            np.testing.assert_array_equal(features.tokens_of(row), held[row][: 0 if row in UNUSED else None])
        np.testing.assert_array_equal(checksums, row_checksums(features))
        assert checksums.dtype == np.uint32
    check_all(shared)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("row", [2, 11, ROWS - 1])
def test_a_write_into_any_shard_is_found_and_named_by_its_catalogue_row(space, shared, row):
    arrays, checked = arrays_for(shared, space.incumbent_config())
    torch.from_numpy(arrays.image.tokens_of(row))[0].add_(1)
    sentence = rf"1 of {ROWS} checked rows differ from what was loaded, the first is catalogue row {row};"
    with pytest.raises(SharedFeaturesError, match=sentence):
        check_sample(*checked[1], turn=0)
    with pytest.raises(SharedFeaturesError, match=sentence):
        check_all(shared)
    check_sample(*checked[0], turn=0)


def test_a_study_on_shards_from_stores_computes_what_one_array_does(space, home, stores, on_ray):
    small = load_space(str(space.path), ["budget.trials=2", "scheduler.name=none", "train.max_epochs=2"])
    study = run_study(small, home, "stored", options(training_run, source=Source(fake_inputs, LOADERS)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for trial in study.trials:
            alone = [without_times(done.metrics) for done in training_run(trial.config, small_arrays())]
            assert [without_times(metrics) for _, metrics in trial.epochs] == alone
    finally:
        torch.set_num_threads(threads)


def test_a_task_that_refuses_a_record_ends_the_study_before_any_trial_with_its_sentence(space, home, stores, on_ray):
    with RecordFile(stores[1], write=True) as store:
        with store.view() as view:
            record = bytearray(view.get("item7"))
        record[-1] ^= 1
        store.write({"item7": bytes(record)})
    with pytest.raises(FeatureStoreError, match=r"features of item 'item7' are damaged; .* run: python launch/prepare"):
        run_study(space, home, "damaged", options(training_run, source=Source(fake_inputs, LOADERS)))
    assert read_study(home, "damaged").trials == []
