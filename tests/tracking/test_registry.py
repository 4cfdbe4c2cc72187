import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import odmt
from odmt.config import RunConfig, from_mapping, to_mapping
from odmt.errors import CheckpointError, DataError
from odmt.experiment.shape import empty_model
from odmt.home import Home
from odmt.model.layout import SequenceLayout
from odmt.model.recommender import SequentialRecommender
from odmt.tracking.connection import connect
from odmt.tracking.recommender import Recommender, read_package, write_package
from odmt.tracking.registry import Candidate, load_champion, register_champion

ITEM_IDS = [f"item{number}" for number in range(1, 9)]
TITLES = [f"Title {number}" for number in range(1, 9)]
CONFIG = from_mapping(
    RunConfig,
    {
        "data": {"max_seq_len": 3},
        "model": {"embedding_dim": 8, "id_init": "random"},
        "fusion": {"num_layers": 1},
        "sequence": {"num_layers": 1},
    },
    "test",
)


@pytest.fixture
def model() -> SequentialRecommender:
    torch.manual_seed(1)
    return empty_model(CONFIG, num_items=8, text_dim=6, image_dim=5, id_dim=8)


@pytest.fixture
def table() -> dict[str, torch.Tensor]:
    views = [torch.randn(9, 8, generator=torch.Generator().manual_seed(number)) for number in range(3)]
    for view in views:
        view[0] = 0
    return dict(zip(("id", "text", "image"), views, strict=True))


@pytest.fixture
def checkpoint(model, tmp_path):
    folder = tmp_path / "e000002-a001-ff"
    folder.mkdir()
    save_file(model.state_dict(), folder / "weights.safetensors")
    return folder


@pytest.fixture
def recommender(model, table) -> Recommender:
    return Recommender(model, list(table.values()), ITEM_IDS, TITLES, max_seq_len=3)


def candidate(checkpoint, table, run_id, **changes) -> Candidate:
    values = {
        "dataset": "demo", "checkpoint": checkpoint, "config": to_mapping(CONFIG), "make_table": lambda: table,
        "item_ids": ITEM_IDS, "titles": TITLES, "run_id": run_id, "study": "demo", "study_id": "s1", "trial_id": "t1",
    }  # fmt: skip
    return Candidate(**values | changes)


def test_every_item_outside_the_history_is_ranked_by_the_mean_of_three_dot_products(recommender, model, table):
    [ranked] = recommender.recommend([["item2", "item5"]], top_k=100)
    layout = SequenceLayout.of(torch.tensor([[False, True, True]]))
    views = [table[name] for name in model.branches]
    with torch.no_grad():
        states = model.encode_sequences([view[[2, 5]] for view in views], layout)
    scores = sum(view[1:] @ state[-1] for view, state in zip(views, states, strict=True)) / 3
    order = [index for index in np.argsort(-scores.numpy()) if index + 1 not in (2, 5)]
    assert [place.item_id for place in ranked] == [ITEM_IDS[index] for index in order]
    assert [place.title for place in ranked] == [TITLES[index] for index in order]
    assert [place.rank for place in ranked] == [1, 2, 3, 4, 5, 6]
    assert [place.score for place in ranked] == pytest.approx([float(scores[index]) for index in order], abs=1e-6)


def test_only_the_last_items_of_a_long_history_are_read_but_all_are_left_out(recommender):
    long, short = recommender.recommend([["item1", "item2", "item3", "item4"], ["item2", "item3", "item4"]], top_k=8)
    assert [place for place in short if place.item_id != "item1"] != []
    assert [(place.item_id, place.score) for place in long] == [
        (place.item_id, pytest.approx(place.score)) for place in short if place.item_id != "item1"
    ]


def test_unknown_items_are_all_named_with_their_neighbours(recommender):
    with pytest.raises(DataError, match=r"history 1: unknown item 'itm2'; known are .*item2.*; history 2 is empty"):
        recommender.recommend([["itm2", "item1"], []])
    with pytest.raises(DataError, match="top_k: 0 is below 1"):
        recommender.recommend([["item1"]], top_k=0)


def test_a_package_gives_the_same_recommender_back(recommender, checkpoint, table, tmp_path):
    (tmp_path / "package").mkdir()
    paths = write_package(
        tmp_path / "package",
        checkpoint=checkpoint,
        config=to_mapping(CONFIG),
        table=table,
        item_ids=ITEM_IDS,
        titles=TITLES,
    )
    assert read_package(paths).recommend([["item1"]]) == recommender.recommend([["item1"]])
    (tmp_path / "package" / "item_vectors.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"(?s)cannot be loaded: .* promote it again, or search again"):
        read_package(paths)


@pytest.fixture
def run_id(home, client) -> str:
    experiment = client.create_experiment("e", artifact_location=home.artifacts.as_uri())
    return client.create_run(experiment).info.run_id


def test_the_alias_moves_once_a_trial_and_the_former_champion_becomes_previous(home, checkpoint, table, run_id, client):
    first = register_champion(home, candidate(checkpoint, table, run_id))
    assert first == ("odmt-demo", "1", False, None)
    assert register_champion(home, candidate(checkpoint, table, run_id)) == ("odmt-demo", "1", True, None)
    second = register_champion(home, candidate(checkpoint, table, run_id, trial_id="t2"))
    assert second == ("odmt-demo", "2", False, "1")
    aliases = client.get_registered_model("odmt-demo").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "2", "previous": "1"}
    versions = {str(found.version): found.tags for found in client.search_model_versions("name = 'odmt-demo'")}
    assert (versions["1"]["odmt.trial"], versions["2"]["odmt.trial"]) == ("t1", "t2")
    assert client.get_run(run_id).info.status == "RUNNING"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    back = register_champion(home, candidate(checkpoint, table, run_id))
    assert back == ("odmt-demo", "1", True, "2")


def test_the_champion_answers_with_a_signature_and_holds_no_pickle(home, checkpoint, table, run_id, recommender):
    register_champion(home, candidate(checkpoint, table, run_id))
    loaded = load_champion(home, "demo")
    [answer] = loaded.predict([["item1", "item3"]], params={"top_k": 2})
    [expected] = recommender.recommend([["item1", "item3"]], top_k=2)
    assert [tuple(place.model_dump().values()) for place in answer] == [tuple(place) for place in expected]
    assert "Array(string)" in str(loaded.metadata.signature.inputs)
    assert "top_k" in str(loaded.metadata.signature.params)
    names = {path.name for path in home.artifacts.rglob("*") if path.is_file()}
    assert {"weights.safetensors", "item_vectors.safetensors", "items.parquet", "config.yaml"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]


@pytest.mark.parametrize("lost", [".", "MLmodel", "artifacts/weights.safetensors"])
def test_a_version_whose_files_are_gone_is_told_and_registered_anew(home, checkpoint, table, run_id, lost):
    register_champion(home, candidate(checkpoint, table, run_id))
    [folder] = [path.parent for path in home.artifacts.rglob("MLmodel")]
    shutil.rmtree(folder / lost) if lost == "." else (folder / lost).unlink()
    with pytest.raises(CheckpointError, match=rf"{folder}.*promote"):
        load_champion(home, "demo")
    assert register_champion(home, candidate(checkpoint, table, run_id)) == ("odmt-demo", "2", False, "1")
    load_champion(home, "demo")


ELSEWHERE = """
import json, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path[:] = [path for path in sys.path if path != CHECKOUT]
import mlflow.pyfunc
model = mlflow.pyfunc.load_model("models:/odmt-demo@champion")
[places] = model.predict([["item1", "item3"]], params={"top_k": 2})
import odmt
print(json.dumps([odmt.__file__, [place.item_id for place in places]]))
"""


def test_the_champion_carries_its_code_to_a_place_without_odmt(home, checkpoint, table, run_id, recommender, tmp_path):
    register_champion(home, candidate(checkpoint, table, run_id))
    code = f"CHECKOUT = {str(Path(odmt.__file__).parent.parent)!r}\n{ELSEWHERE}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": home.tracking_uri}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    where, item_ids = json.loads(done.stdout.splitlines()[-1])
    assert where.endswith("/code/odmt/__init__.py")
    assert item_ids == [place.item_id for place in recommender.recommend([["item1", "item3"]], top_k=2)[0]]


def test_a_checkpoint_without_weights_is_not_registered(home, tmp_path, table, client):
    (tmp_path / "empty").mkdir()
    run = client.create_run(client.create_experiment("e", artifact_location=home.artifacts.as_uri()))
    with pytest.raises(CheckpointError, match=r"weights.safetensors: is missing"):
        register_champion(home, candidate(tmp_path / "empty", table, run.info.run_id))
    assert client.search_registered_models() == []


def test_a_model_that_is_not_there_is_named_with_those_that_are(home: Home):
    connect(home)
    with pytest.raises(CheckpointError, match=r"no registered model 'arts'; none is registered yet; .*promote.py"):
        load_champion(home, "arts")
