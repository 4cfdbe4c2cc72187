"""Fixtures that the tests of the encoders share."""

import pytest
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
