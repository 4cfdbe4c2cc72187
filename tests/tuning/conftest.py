import pytest
from fake_search import write_space

from odmt.home import Home
from odmt.tuning.space import load_space


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def space(tmp_path):
    return load_space(write_space(tmp_path))
