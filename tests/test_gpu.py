"""What only a GPU can show; skipped where there is none."""

import pytest
import torch
from small_arrays import small_arrays, small_config

from odmt.experiment.run import training_run

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
