"""The benchmarks' other side equals the authors' code, and the training benchmark runs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import GOLDEN, group, load
from parts import authors
from parts.accounting import LiveStorages
from parts.workload import make_workload

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def make_model(meta, arrays, state):
    parameters = group(arrays, state)
    width, id_dim = parameters["item_encoder.id_projection.weight"].shape
    sizes = authors.Sizes(
        num_items=arrays["t_feat"].shape[0] - 1,
        text_dim=arrays["t_feat"].shape[2],
        image_dim=arrays["v_feat"].shape[2],
        id_dim=id_dim,
        width=width,
        max_seq_len=meta["max_seq_len"],
        fusion_layers=meta["merged_att_layers"],
        fusion_heads=meta["merged_att_layers"],
        id_masking=meta["version"] == "v1",
        dropout=0.0,
    )
    model = authors.Authors(sizes)
    model.load_ours(parameters)
    return model


def weight_of(epoch, alpha):
    """The released code's weight: alpha below 1 is the weight, alpha from 1 the length of the ramp."""
    return alpha if alpha < 1 else math.exp(-5 * (1 - min(epoch, alpha) / alpha) ** 2)


def make_batch(arrays, slots):
    flat = slots.reshape(-1).astype(np.int64)
    num_tokens = arrays["t_feat"].shape[1]
    tokens = authors.SlotTokens(
        torch.from_numpy(arrays["t_feat"][flat]).float(),
        torch.from_numpy(arrays["item_content"][flat][:, num_tokens:] != 0),
        torch.from_numpy(arrays["v_feat"][flat]).float(),
    )
    probability = torch.from_numpy(arrays["pop_prob_list"].astype(np.float32))
    slots = torch.from_numpy(slots.astype(np.int64))
    return slots, tokens, probability[slots].log()


def assert_all_close(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("model_loss_*.npz")), ids=lambda path: path.stem)
def test_the_compared_side_has_the_authors_losses_and_gradients(path):
    meta, arrays = load(path.stem)
    model = make_model(meta, arrays, "state/")
    batch = make_batch(arrays, arrays["sample_items_id"].reshape(meta["B"], meta["max_seq_len"] + 1))
    epoch, alpha, tau = (arrays[f"grad_{name}"].item() for name in ("epoch", "alpha", "tau"))
    terms = model(*batch, kd_weight=weight_of(epoch, alpha), temperature=tau)
    terms.loss.backward()
    assert terms.ce.item() == pytest.approx(arrays["grad_ce_loss"].item(), abs=1e-5)
    assert terms.kd.item() == pytest.approx(arrays["grad_kl_loss"].item(), abs=1e-5, rel=1e-6)
    assert_all_close(model.gradients_as_ours(), group(arrays, "grad/"), {"rtol": 0, "atol": 1e-5})
    logits, labels = model.logits(*batch)
    np.testing.assert_array_equal(labels, arrays["label"])
    for branch in authors.BRANCHES:
        expected = torch.from_numpy(arrays[f"logits_{branch}"])
        torch.testing.assert_close(logits[branch].detach(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("training_*.npz")), ids=lambda path: path.stem)
def test_twenty_steps_of_the_compared_side_equal_the_authors(path):
    meta, arrays = load(path.stem)
    model = make_model(meta, arrays, "state0/")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    batches = [make_batch(arrays, rows.reshape(-1, meta["max_seq_len"] + 1)) for rows in arrays["sample_items_id"]]
    for step in range(20):
        weight = weight_of(arrays["epoch_of_step"][step].item(), meta["alpha"])
        terms = model(*batches[arrays["batch_of_step"][step]], kd_weight=weight, temperature=meta["tau"])
        optimizer.zero_grad()
        terms.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        assert terms.ce.item() == pytest.approx(arrays["ce_loss"][step].item(), abs=1e-4)
        assert terms.kd.item() == pytest.approx(arrays["kl_loss"][step].item(), abs=1e-4)
        assert norm.item() == pytest.approx(arrays["grad_norm_before_clip"][step].item(), abs=1e-3)
    expected = group(arrays, "state20/")
    assert_all_close(model.state_as_ours(), expected, {"rtol": 0, "atol": 1e-4})


def test_live_storages_by_hand():
    at_rest = torch.zeros(1000)
    with LiveStorages() as live:
        first = at_rest + 1  # 4,000 bytes
        second = first[:10] * 2  # 40 bytes; the view makes nothing
        del first
        third = at_rest * 3  # 4,000 bytes
        kept = torch.from_numpy(np.zeros(100)) + 1  # 800 bytes read, 800 made
    assert live.peak_bytes(without=[]) == 40 + 4000 + 800 + 800
    del second, third, kept


def test_what_autograd_keeps_lives_until_its_backward():
    weight = torch.ones(1000, requires_grad=True)
    with LiveStorages() as live:
        hidden = weight.exp()  # kept by autograd after the name is gone
        total = hidden.sum()
        del hidden
        other = torch.zeros(500)
        total.backward()
    made = {"hidden": 4000, "total": 4, "other": 2000, "gradient of total": 4}
    assert live.peak_bytes(without=[weight.grad]) == sum(made.values())
    del other


def test_the_made_data_are_as_described():
    workload = make_workload(8, 20_000, 2_000, 32, 0)
    lengths = np.diff(workload.offsets) - 1
    assert (lengths.min(), lengths.max()) == (5, 13)
    assert lengths.mean() == pytest.approx(7, abs=0.15)
    text_lengths = np.diff(workload.token_offsets["text"])
    assert text_lengths.min() >= 2
    assert text_lengths.max() <= 30
    assert text_lengths.mean() == pytest.approx(18, abs=1)
    assert set(np.diff(workload.token_offsets["image"])) == {50}
    distinct = workload.batches["distinct"]
    assert len(np.unique(distinct[distinct != 0])) == (distinct != 0).sum() == (workload.batches["popular"] != 0).sum()


ONLY_TORCH_AND_NUMPY = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("yaml", "pyarrow", "ray", "lmdb", "transformers", "optuna", "mlflow", "scipy"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_training_benchmark_runs_with_torch_and_numpy_alone():
    command = [
        sys.executable,
        "-c",
        ONLY_TORCH_AND_NUMPY,
        str(BENCHMARKS / "train_step.py"),
        "--smoke",
        "--profile",
        "--device",
        "cpu",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "aten::bmm" in ended.stdout
    result = json.loads(ended.stdout.splitlines()[-1])
    popular = result["widths"]["16"]["popular"]
    assert popular["flops"]["ours"] < popular["flops"]["authors"]
    assert popular["activation_megabytes"]["ours"] < popular["activation_megabytes"]["authors"]
    assert result["ratio"] == popular["ratio"] > 0
