"""Fixtures and hypothesis settings that every room's tests share."""

import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads; see odmt/commands.py
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' tensors are small, and their processes several

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def launch():
    """Return a function that gives the ``main`` of a script under launch/."""

    def main_of(name):
        spec = importlib.util.spec_from_file_location(f"launch_{name}", CHECKOUT / "launch" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main

    return main_of


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """One Ray for all tests that need one: two CPUs, a port and a folder of its own."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    here = str(Path(__file__).parent)
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
