import os
from pathlib import Path

import fake_search
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


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """One Ray for all tests that need one: two CPUs, a port and a folder of its own."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    here = str(Path(fake_search.__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))  # of the workers
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "num_gpus": 0,
            "object_store_memory": 900 * 2**20,
            "include_dashboard": False,
            "temp_dir": str(tmp_path_factory.mktemp("r")),
        },
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="session")
def ray_address(ray_cluster):
    return ray_cluster.address


@pytest.fixture
def on_ray(ray_address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    return ray_address
