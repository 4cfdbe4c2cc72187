"""One corpus in each of the six source forms, from the folder to recommendations, as commands."""

import json

import pytest
from corpora import FORMS, make_corpus

from odmt.data.interactions import read_catalogue

SPACE = """
fixed:
  data: {{dataset: {name}}}
  features:
    text: {{model: ./encoders/text, layer: -1, max_tokens: 16}}
    image: {{model: ./encoders/image, layer: -1, image_size: 32}}
  model: {{embedding_dim: 8, id_init: random}}
  fusion: {{num_layers: 1, dropout: 0.0}}
  sequence: {{num_layers: 1}}
  train: {{max_epochs: 1, batch_size: 16}}
incumbent: {{train.learning_rate: 2e-3}}
axes: {{train.learning_rate: {{type: loguniform, low: 1e-3, high: 4e-3}}}}
scheduler: {{name: none}}
budget: {{trials: 2}}
resources: {{gpus_per_trial: 0, max_concurrent_trials: 2}}
"""


MARKS = dict.fromkeys(("ks", "hm", "hm-kaggle", "microlens"), pytest.mark.long)
"""Their readers have quick tests of their own; the way from there on is the same for all."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus") / "source")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in FORMS])
def test_every_form_goes_from_its_folder_to_recommendations(
    name, corpus, home, launch, on_ray, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ODMT_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    source = FORMS[name](tmp_path / "source", corpus)
    space = tmp_path / f"{name}.yaml"
    space.write_text(SPACE.format(name=name))

    assert launch("prepare")(["--space", str(space), "--source", str(source), "--tiny-encoders"]) == 0
    prepared = capsys.readouterr().out
    assert "60 users, 30 items, 534 interactions" in prepared
    assert f"prepared: {name}" in prepared

    assert launch("tune")(["--space", str(space), "--quiet"]) == 0
    assert f"study {name}: 2 trials: 2 completed" in capsys.readouterr().out

    assert launch("promote")([name]) == 0
    assert f"odmt-{name} version 1 is champion" in capsys.readouterr().out

    items = read_catalogue(home / "data" / name).item_ids
    assert launch("recommend")(["--model", name, "--history", ",".join(items[:2]), "--top-k", "3", "--json"]) == 0
    places = json.loads(capsys.readouterr().out)
    assert [place["rank"] for place in places] == [1, 2, 3]
    assert {place["item_id"] for place in places} <= set(items[2:])
    assert all(place["title"] for place in places)
