import pytest

from odmt.config import TextEncoderConfig
from odmt.errors import MissingDataError
from odmt.features.store import feature_store_path
from odmt.home import Home

HUB = TextEncoderConfig(model="some/hub-model", layer=-1)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_the_store_of_an_encoder_depends_on_everything_that_changes_its_features(home):
    variants = [
        HUB,
        TextEncoderConfig(model="some/hub-model", layer=3),
        TextEncoderConfig(model="some/hub-model", layer=-1, revision="abc"),
        TextEncoderConfig(model="some/hub-model", layer=-1, max_tokens=10),
        TextEncoderConfig(model="some/hub-model", layer=-1, lower_case=False),
    ]
    assert len({feature_store_path(home, "arts", variant) for variant in variants}) == len(variants)


def test_a_folder_counts_by_its_content_not_by_its_place(home, tmp_path):
    inside = home.dataset("arts") / "encoders" / "text"
    for folder in (inside, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    local = TextEncoderConfig(model="./encoders/text", layer=-1)
    before = feature_store_path(home, "arts", local)
    assert feature_store_path(home, "arts", TextEncoderConfig(model=str(tmp_path / "elsewhere"), layer=-1)) == before
    (inside / "vocab.txt").write_text("[PAD]")
    assert feature_store_path(home, "arts", local) != before
    with pytest.raises(
        MissingDataError, match=r"features\.text\.model: './encoders/x' is not there: put .*arts/encoders/x"
    ):
        feature_store_path(home, "arts", TextEncoderConfig(model="./encoders/x"))
