"""Encoders as tasks of a Ray that runs elsewhere: the features of the same encoder here, within one step of float16."""

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from corpora import make_corpus, write_amazon

from odmt.config import PrepareConfig, TextEncoderConfig
from odmt.data.interactions import read_catalogue, read_interactions
from odmt.errors import ConfigError, DataError, FeatureStoreError, OdmtError, ServiceError
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

COMMIT = "c0" * 20


def all_errors(root=OdmtError):
    """One error of each class, of one sentence; of several problems where the class has such."""
    own = root("where", ["one", "two"]) if issubclass(root, ConfigError) else root("one sentence")
    return [own, *(error for cls in root.__subclasses__() for error in all_errors(cls))]


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


@pytest.fixture
def connected(address, monkeypatch):
    from odmt.cluster.connect import choose_place, connect, disconnect

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    connect(choose_place("attach"), feature_bytes=0)
    yield
    disconnect()


@pytest.mark.slow
def test_joining_ray_leaves_it_to_us_what_sigterm_does(address, monkeypatch):
    from odmt.cluster.connect import choose_place, connect, disconnect

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        connect(choose_place("attach"), feature_bytes=0)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        disconnect()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_what_is_wrong_with_an_encoder_comes_back_as_its_own_error(source, tmp_path, connected):
    from odmt.cluster.remote_encoding import RemoteEncoding

    home = Home(tmp_path / "home")
    prepare(home, plan(source, stages=("import", "images", "features")))
    folder = home.dataset("arts")
    weights = folder / "encoders" / "text" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    inputs = Inputs(folder, {"a": "A"}, image_digests(folder))
    with pytest.raises(DataError, match=f"^{weights.parent}: its weights cannot be read"):
        RemoteEncoding(TINY_TEXT, inputs, PrepareConfig())
    with pytest.raises(ConfigError, match=r"layer: 7, but \./encoders/image has 2 blocks"):
        RemoteEncoding(dataclasses.replace(TINY_IMAGE, layer=7), inputs, PrepareConfig())
    whole = RemoteEncoding(TINY_IMAGE, inputs, PrepareConfig())
    local = LocalEncoding(TINY_IMAGE, inputs, PrepareConfig(), ["cpu"])
    assert (whole.width, whole.max_tokens, whole.commit) == (local.width, local.max_tokens, local.commit)
    assert whole.count_tokens(["i0001", "i0002"]) == 10


@pytest.fixture
def hub_encoding(monkeypatch):
    """Make an encoder of a hub model that only its tasks know of."""
    from odmt.cluster import remote_encoding

    def make(**functions):
        functions |= {"_describe": lambda orders, files: (2, 3, COMMIT, 0)}
        for name, function in functions.items():
            monkeypatch.setattr(remote_encoding, name, function)
        inputs = Inputs(Path("nowhere"), {"a": "A", "b": "B"}, {})
        return remote_encoding.RemoteEncoding(TextEncoderConfig(model="some/model"), inputs, PrepareConfig())

    return make


@pytest.mark.slow
def test_all_tasks_load_the_commit_that_the_first_one_found(connected, hub_encoding):
    def commit_number(orders, files, titles):
        return int(json.loads(orders.config)["revision"], 16)

    assert hub_encoding(_count_tokens=commit_number).count_tokens(["a"]) == int(COMMIT, 16)


@pytest.mark.slow
def test_a_batch_that_ends_every_process_is_given_up_and_named(connected, hub_encoding, monkeypatch):
    def die(orders, files, titles):
        os._exit(1)

    monkeypatch.setattr("odmt.cluster.remote_encoding._RETRIES", 1)
    encoding = hub_encoding(_encode_titles=die)
    with pytest.raises(DataError, match=r"the batch from item 'b' on was lost .* run the same command again"):
        list(encoding.run([["b", "a"]]))


def test_what_ray_cannot_run_is_told_as_a_fault_of_the_service(monkeypatch):
    import ray

    from odmt.cluster.remote_encoding import _get

    def unschedulable(reference):
        raise ray.exceptions.TaskUnschedulableError("no node has a GPU")

    monkeypatch.setattr(ray, "get", unschedulable)
    with pytest.raises(ServiceError, match=r"Ray could not run the task that loads x \(.*no node has a GPU.*\); what"):
        _get("that loads x", None)


@pytest.mark.slow
def test_every_error_class_comes_over_ray_as_itself(connected):
    import ray

    from odmt.cluster.task_errors import cause_of

    @ray.remote
    def fail(error):
        raise error

    raised = all_errors()
    for error, reference in [(error, fail.remote(error)) for error in raised]:
        with pytest.raises(ray.exceptions.RayTaskError) as caught:
            ray.get(reference)
        assert (type(cause_of(caught.value)), str(cause_of(caught.value))) == (type(error), str(error))


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: type(error).__name__)
def test_every_error_class_survives_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_stored_picture_that_no_longer_decodes_is_named_with_its_file():
    from odmt.cluster.remote_encoding import _encode_pictures, _Orders

    orders = _Orders(False, "{}", "/home/of/arts", "fp32", "cpu")
    with pytest.raises(FeatureStoreError, match=r"^/home/of/arts/images\.lmdb: picture of item 'b' is no JPEG"):
        _encode_pictures(orders, [], ["b"], [b"damaged"], [b""], 32)
