import numpy as np
import pytest

from odmt.config import DataConfig
from odmt.data.interactions import Catalogue, Interactions, write_dataset
from odmt.errors import MissingDataError
from odmt.experiment.arrays import load_full_split, load_split
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
