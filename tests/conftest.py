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
