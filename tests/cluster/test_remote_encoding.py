"""Encoders as tasks of a Ray that runs elsewhere: the features of the same encoder here, within one step of float16."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import CHECKOUT
from corpora import make_corpus, write_amazon

from odmt.config import PrepareConfig
from odmt.data.interactions import read_catalogue, read_interactions
from odmt.errors import DataError
from odmt.experiment.prepare import prepare
from odmt.experiment.prepare_plan import PreparePlan
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT
from odmt.features.encoding import Inputs, LocalEncoding
from odmt.features.images import image_digests
from odmt.features.shards import load_features
from odmt.home import Home

RAY = """
import sys, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=10**8, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def address():
    """A Ray of another process."""
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(CHECKOUT)}
    server = subprocess.Popen(
        [sys.executable, "-c", RAY], env=os.environ | environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield server.stdout.readline().strip()
    finally:
        server.communicate(timeout=60)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arts")
    source = write_amazon(folder / "source", make_corpus(folder / "corpus"))
    (source / "images" / "i0003.png").unlink()
    return source


def plan(source, **changes):
    encoders = {"tiny_encoders": True, "text_encoders": (TINY_TEXT,), "image_encoders": (TINY_IMAGE,)}
    settings = PrepareConfig(missing_images="blank", batch_size=7)
    return PreparePlan(dataset="arts", source=source, settings=settings, **encoders | changes)


def features(home, encoder):
    folder = home.dataset("arts")
    catalogue = read_catalogue(folder)
    return load_features(home, "arts", encoder, catalogue, read_interactions(folder, catalogue).occurring_rows)


@pytest.mark.slow
def test_features_from_ray_tasks_are_those_from_here(address, source, tmp_path, launch, monkeypatch, capsys):
    here, there = Home(tmp_path / "here"), Home(tmp_path / "there")
    prepare(here, plan(source))
    monkeypatch.setenv("ODMT_HOME", str(there.root))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    words = ["--dataset", "arts2", "--source", str(source), "--tiny-encoders", "--where", "attach"]
    assert launch("prepare")([*words, "--set", "prepare.missing_images=blank"]) == 0
    out = capsys.readouterr().out
    assert f"encoders run on the Ray at {address}" in out
    assert out.count(" s on Ray, up to 2 tasks at once") == 2
    (there.root / "data" / "arts2").rename(there.dataset("arts"))
    (there.root / "features" / "arts2").rename(there.features("arts"))
    for encoder in (TINY_TEXT, TINY_IMAGE):
        ours, theirs = features(here, encoder), features(there, encoder)
        np.testing.assert_array_equal(ours.lengths, theirs.lengths)
        for row in range(ours.num_rows):
            steps = np.abs(ours.tokens_of(row).view(np.int16).astype(int) - theirs.tokens_of(row).view(np.int16))
            assert steps.max() <= 1


@pytest.mark.slow
def test_what_is_wrong_with_an_encoder_comes_back_as_its_own_error(address, source, tmp_path, monkeypatch):
    from odmt.cluster.connect import choose_place, connect, disconnect

    home = Home(tmp_path / "home")
    prepare(home, plan(source, stages=("import", "images", "features")))
    folder = home.dataset("arts")
    weights = folder / "encoders" / "text" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    connect(choose_place("attach"), feature_bytes=0)
    try:
        from odmt.cluster.remote_encoding import RemoteEncoding

        inputs = Inputs(folder, {"a": "A"}, image_digests(folder))
        with pytest.raises(DataError, match="its weights cannot be read"):
            RemoteEncoding(TINY_TEXT, inputs, PrepareConfig())
        whole = RemoteEncoding(TINY_IMAGE, inputs, PrepareConfig())
        local = LocalEncoding(TINY_IMAGE, inputs, PrepareConfig(), ["cpu"])
        assert (whole.width, whole.max_tokens, whole.commit) == (local.width, local.max_tokens, local.commit)
        assert whole.count_tokens(["i0001", "i0002"]) == 10
    finally:
        disconnect()
