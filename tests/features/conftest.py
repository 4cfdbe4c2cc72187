"""Fixtures that the tests of encoders and of downloads share."""

import pytest
from picture_server import serving
from tiny_models import TEXT_FAMILIES, VISION_FAMILIES, save_tiny_model

from odmt.features.loading import quiet_transformers


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Folder that holds a tiny model of each family under its name."""
    folder = tmp_path_factory.mktemp("models")
    with quiet_transformers():
        for family in (*TEXT_FAMILIES, *VISION_FAMILIES):
            save_tiny_model(family, folder / family)
    return folder


@pytest.fixture
def shop(monkeypatch):
    """A server of pictures that no proxy of the environment comes between."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serving() as server:
        yield server
