"""A new user's way, as commands: prepare, train, tune, promote, recommend, and the UI, on a smaller demo set."""

import json
import os
import socket
import subprocess
import sys
import urllib.request

import pytest
from conftest import CHECKOUT

from odmt.data.demo import generate

SPACE = """
description: a smaller demo set
fixed:
  data: {dataset: small}
  features:
    text: {model: ./encoders/text, layer: -1, max_tokens: 16}
    image: {model: ./encoders/image, layer: -1, image_size: 32}
  model: {embedding_dim: 16, id_init: random}
  fusion: {num_layers: 1, dropout: 0.0}
  sequence: {num_layers: 1}
  train: {max_epochs: 3, batch_size: 64}
incumbent: {train.learning_rate: 2e-3, distill.weight: 0.3}
axes:
  train.learning_rate: {type: loguniform, low: 1e-3, high: 4e-3}
  distill.weight: {type: choice, values: [0.0, 0.3]}
scheduler: {name: asha, grace_period: 1, reduction_factor: 2}
budget: {trials: 3}
resources: {gpus_per_trial: 0, max_concurrent_trials: 2}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    generate(folder / "source", num_users=200, num_items=60, seed=5)
    (folder / "small.yaml").write_text(SPACE)
    return folder


def environment(place):
    unset = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"ODMT_HOME": str(place / "home")}


def command(place, script, *arguments):
    ended = subprocess.run(
        [sys.executable, f"launch/{script}.py", *map(str, arguments)],
        cwd=CHECKOUT,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_from_a_folder_of_files_to_recommendations_and_the_ui(place):
    space = place / "small.yaml"
    prepared = command(place, "prepare", "--space", space, "--source", place / "source", "--tiny-encoders")
    assert "200 users, 60 items" in prepared

    trained = command(place, "train", "--space", space, "--set", "train.max_epochs=1")
    assert "epoch   1 of 1" in trained
    assert "floor: transitions" in trained

    searched = command(place, "tune", "--space", space)
    assert "study small: 3 trials" in searched
    assert "python launch/promote.py small" in searched

    promoted = command(place, "promote", "small")
    assert "odmt-small version 1 is champion" in promoted

    deleted = command(place, "study", "delete", "small", "--yes")
    assert "study small is deleted" in deleted  # the champion has files of its own, and answers all the same

    answered = command(place, "recommend", "--model", "small", "--history", "i0001,i0002", "--top-k", 5, "--json")
    places = json.loads(answered)
    assert [item["rank"] for item in places] == [1, 2, 3, 4, 5]
    assert not {item["item_id"] for item in places} & {"i0001", "i0002"}

    assert experiment_names(place) == {"Default", "small"}


def experiment_names(place):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "odmt.tracking.ui", "--port", str(port)],
        cwd=CHECKOUT,
        env=environment(place),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_health(server, port)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
            data=b'{"max_results": 10}',
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return {experiment["name"] for experiment in json.load(answer)["experiments"]}
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for_health(server, port):
    import time

    for _ in range(300):
        assert server.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the UI did not answer")
