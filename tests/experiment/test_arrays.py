import numpy as np
import pytest
from small_store import write_store

from odmt.config import DataConfig, FeaturesConfig, RunConfig, TextEncoderConfig
from odmt.data.interactions import Catalogue, Interactions, read_catalogue, write_dataset
from odmt.errors import MissingDataError
from odmt.experiment.arrays import arrays_digest, load_full_split, load_split
from odmt.features.store import feature_store_path
from odmt.home import Home

DATA = DataConfig(dataset="tiny", max_seq_len=4)


@pytest.fixture
def home(tmp_path):
    """Two users whose last item, and nothing else of theirs, is item ``sealed``."""
    home = Home(tmp_path)
    items = np.array([0, 1, 2, 3, 4, 9, 5, 6, 7, 8, 0, 9], dtype=np.int32)
    catalogue = Catalogue([*(f"i{number}" for number in range(9)), "sealed"], ["title"] * 10)
    write_dataset(home.dataset("tiny"), Interactions(["a", "b"], np.array([0, 6, 12]), items), catalogue)
    return home


def test_what_the_loader_gives_a_trial_holds_no_test_position(home):
    split = load_split(home, DATA)
    sealed = 1 + int(np.flatnonzero(split.item_rows == 9)[0])
    assert sealed in load_full_split(home, DATA).items
    assert sealed not in split.items
    assert np.diff(split.offsets).tolist() == [5, 5]
    arrays = [value for value in split if isinstance(value, np.ndarray)]
    assert [len(array) for array in arrays] == [10, 3, 10]  # item_rows, offsets, items: nothing else travels


def test_the_sealed_item_is_still_a_candidate(home):
    assert 9 in load_split(home, DATA).item_rows


def test_a_data_set_that_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(MissingDataError, match=r"launch/prepare.py --dataset tiny --source DIR"):
        load_split(Home(tmp_path), DATA)


TEXT = TextEncoderConfig(model="some/hub-model")
RUN = RunConfig(data=DATA, features=FeaturesConfig(text=TEXT))


@pytest.fixture
def digest_with(home, monkeypatch):
    """Give the digest of a run on features that a store's manifest describes."""
    monkeypatch.setattr("odmt.experiment.arrays.items_digest", lambda *arguments: "sources")
    catalogue = read_catalogue(home.dataset("tiny"))

    def digest(**manifest):
        write_store(home, "tiny", TEXT, catalogue, [np.ones((1, 2), dtype=np.float16)] * 10, **manifest)
        return arrays_digest(home, RUN)

    return digest


def test_a_run_is_told_apart_by_the_commit_and_the_precision_of_its_features(digest_with):
    before = digest_with(commit="a" * 40)
    assert digest_with(commit="a" * 40, items_per_second=7.0) == before
    others = [digest_with(commit="b" * 40), digest_with(commit="a" * 40, precisions=["fp16"])]
    others.append(digest_with(commit="a" * 40, precisions=["fp16", "fp32"]))
    assert len({before, *others}) == 4


@pytest.mark.parametrize("content", [b"", b"junk" * 4096])
def test_an_empty_or_unreadable_store_counts_as_none(home, digest_with, content):
    digest_with()
    path = feature_store_path(home, "tiny", TEXT)
    path.write_bytes(content)
    unreadable = arrays_digest(home, RUN)
    path.unlink()
    assert arrays_digest(home, RUN) == unreadable
