"""The shipped space of Arts on a corpus in its layout, and a space that chooses between two image encoders."""

import pytest
from corpora import make_corpus, write_amazon
from tiny_models import save_tiny_model

from odmt.features.loading import quiet_transformers

TINY = (
    "features.text.model=./encoders/text", "features.text.layer=-1", "features.text.max_tokens=16",
    "features.image.model=./encoders/image", "features.image.layer=-1", "features.image.image_size=32",
)  # fmt: skip
SMALL = ("model.embedding_dim=16", "train.batch_size=32", "resources.gpus_per_trial=0", "resources.cpus_per_trial=1")

TWO_ENCODERS = """
fixed:
  data: {dataset: arts}
  features:
    text: {model: ./encoders/text, layer: -1, max_tokens: 16}
    image: {layer: -1, image_size: 32}
  model: {embedding_dim: 8, id_init: random}
  fusion: {num_layers: 1}
  sequence: {num_layers: 1}
  train: {max_epochs: 1, batch_size: 16}
incumbent: {features.image.model: ./encoders/image}
axes: {features.image.model: {type: choice, values: [./encoders/image, ./encoders/swin]}}
sampler: {name: grid}
scheduler: {name: none}
budget: {trials: 2}
resources: {gpus_per_trial: 0, max_concurrent_trials: 1}
"""


def settings(*values):
    return [word for value in values for word in ("--set", value)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arts")
    corpus = make_corpus(folder / "corpus", num_users=150, num_items=60)
    return write_amazon(folder / "source", corpus)


@pytest.fixture(autouse=True)
def environment(home, on_ray, monkeypatch):
    monkeypatch.setenv("ODMT_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.slow
def test_the_shipped_space_of_arts_trains_and_searches_on_a_corpus_in_its_layout(source, launch, capsys):
    assert launch("prepare")(["--dataset", "arts", "--source", str(source), "--tiny-encoders", *settings(*TINY)]) == 0
    out = capsys.readouterr().out
    assert "the authors' release, Amazon dialect: 150 users, 60 items" in out
    assert "next: python launch/tune.py --space arts --set features.text.model=./encoders/text" in out

    short = settings(*TINY, *SMALL, "train.max_epochs=2")
    assert launch("train")(["--space", "arts", *short]) == 0
    assert "epoch   2 of 2" in capsys.readouterr().out

    search = settings("scheduler.grace_period=1", "scheduler.reduction_factor=2", "budget.trials=3")
    assert launch("tune")(["--space", "arts", "--quiet", *short, *search]) == 0
    assert "study arts: 3 trials" in capsys.readouterr().out


@pytest.mark.slow
def test_a_space_chooses_between_two_encoders_each_with_a_store_of_its_own(source, home, launch, capsys, tmp_path):
    space = tmp_path / "two.yaml"
    space.write_text(TWO_ENCODERS)
    with quiet_transformers():
        save_tiny_model("swin", home / "data" / "arts" / "encoders" / "swin")
    assert launch("prepare")(["--space", str(space), "--source", str(source), "--tiny-encoders"]) == 0
    out = capsys.readouterr().out
    assert "image ./encoders/image: " in out
    assert "image ./encoders/swin: 60 of 60 extracted" in out
    assert len(list((home / "features" / "arts").glob("image-*.lmdb"))) == 2
    assert launch("tune")(["--space", str(space), "--quiet"]) == 0
    assert "study two: 2 trials: 2 completed" in capsys.readouterr().out
