"""What only a GPU can show; skipped where there is none."""

import numpy as np
import pytest
import torch
from small_arrays import small_arrays, small_config

from odmt.config import PrepareConfig
from odmt.experiment.run import training_run
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT, make_tiny_encoders
from odmt.features.encoding import Inputs, LocalEncoding
from odmt.features.images import Entry, digest_of, write_pictures
from odmt.features.pictures import encode_png
from odmt.features.records import RecordFile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")

STILL = {"fusion": {"dropout": 0.0}, "sequence": {"dropout": 0.0}}


def losses(device="cuda", **sections):
    train = {"max_epochs": 2} | sections.pop("train", {})
    run = training_run(small_config(**STILL, **sections, train=train), small_arrays(), device=device)
    return [result.metrics["train/loss"] for result in run]


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
def test_float32_losses_are_those_of_a_cpu(backbone):
    settings = {"model": {"backbone": backbone}, "train": {"precision": "fp32"}}
    assert losses(**settings) == pytest.approx(losses("cpu", **settings), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_near_float32(precision):
    assert losses(train={"precision": precision}) == pytest.approx(losses("cpu"), rel=0.02)


def test_features_on_the_device_and_on_the_host_give_the_same_losses():
    on_device, on_host = (losses(train={"features": where, "precision": "fp32"}) for where in ("device", "host"))
    assert on_device == pytest.approx(on_host, rel=1e-6)


@pytest.mark.parametrize("option", ["recompute_items", "compile"])
def test_an_option_of_speed_or_memory_changes_no_loss(option):
    assert losses(train={option: True, "precision": "fp32"}) == pytest.approx(losses("cpu"), rel=1e-4)


def test_deterministic_runs_are_equal():
    assert losses(train={"deterministic": True}) == losses(train={"deterministic": True})


@pytest.mark.parametrize("kind", ["text", "image"])
def test_features_from_every_gpu_are_near_a_cpus_and_the_same_again(kind, tmp_path):
    make_tiny_encoders(tmp_path, ["red pen", "blue ink"])
    items = [f"i{number:02d}" for number in range(40)]
    rng = np.random.default_rng(0)
    contents = {item: encode_png(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for item in items}
    entries = {item: Entry(digest_of(content), "") for item, content in contents.items()}
    with RecordFile(tmp_path / "images.lmdb", write=True) as store:
        store.write({}, {"format": "odmt-images-2", "complete": True, "policy": "blank"})
        write_pictures(store, entries, contents)
    titles = {item: f"red pen {item}" for item in items}
    inputs = Inputs(tmp_path, titles, {item: entry.digest for item, entry in entries.items()})
    batches = [items[start : start + 8] for start in range(0, 40, 8)]
    config = TINY_TEXT if kind == "text" else TINY_IMAGE

    def run(**options):
        settings = PrepareConfig(workers=0, precision=options.pop("precision", "auto"))
        return [array for batch in LocalEncoding(config, inputs, settings, **options).run(batches) for array in batch]

    on_cpu, full, half = run(devices=["cpu"]), run(precision="fp32"), run()
    for expected, found, narrow in zip(on_cpu, full, half, strict=True):
        np.testing.assert_allclose(found.astype(float), expected, atol=1e-2)
        np.testing.assert_allclose(narrow.astype(float), expected, atol=0.1)
    for first, second in zip(half, run(), strict=True):
        steps = np.abs(first.view(np.int16).astype(int) - second.view(np.int16))
        assert steps.max() <= 1
