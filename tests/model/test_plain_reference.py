"""The plain reference equals the authors' code: what is compared with it is compared with them."""

import math
from pathlib import Path

import numpy as np
import plain_reference as plain
import pytest
import torch
from golden_files import GOLDEN, group, load

TOLERANCE = {"rtol": 2e-6, "atol": 1e-5}


def parameters_of(arrays, prefix, *, imt_prefix="IMT."):
    """Recorded parameters or gradients under our names, in float64."""
    return {name: value.double() for name, value in group(arrays, prefix, imt_prefix=imt_prefix).items()}


def leaves(parameters):
    return {name: value.clone().requires_grad_() for name, value in parameters.items()}


def assert_gradients(parameters, expected):
    assert expected
    assert {name for name, leaf in parameters.items() if leaf.grad is not None} == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            parameters[name].grad, gradient, msg=lambda text, name=name: f"{name}: {text}", **TOLERANCE
        )


def tensor_of(arrays, name):
    return torch.from_numpy(arrays[name]).double()


def features_of(arrays):
    num_tokens = arrays["t_feat"].shape[1]
    image = tensor_of(arrays, "v_feat")
    text_mask = torch.from_numpy(arrays["item_content"][:, num_tokens:] != 0)
    return plain.Features(tensor_of(arrays, "t_feat"), text_mask, image, torch.ones(image.shape[:2], dtype=torch.bool))


def settings_of(meta):
    return plain.Settings(meta["merged_att_layers"], 2, meta["version"] == "v1")


def weight_of(epoch, alpha):
    return alpha if alpha < 1 else math.exp(-5 * (1 - min(epoch, alpha) / alpha) ** 2)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("imt_*.npz")), ids=lambda path: path.stem)
def test_the_plain_fusion_equals_the_authors(path):
    meta, arrays = load(path.stem)
    parameters = leaves(parameters_of(arrays, "state/"))
    inputs = [tensor_of(arrays, name).requires_grad_() for name in ("id_feats", "lang_feats", "visn_feats")]
    masks = [torch.from_numpy(arrays[name] != 0) for name in ("lang_mask", "visn_mask")]
    total = 0.0
    for item in range(meta["N"]):
        views = plain.fuse_item(
            *(tensor[item] for tensor in inputs),
            *(mask[item] for mask in masks),
            parameters,
            meta["heads"],
            meta["version"] == "v1",
        )
        for branch, view in zip(plain.BRANCHES, views, strict=True):
            torch.testing.assert_close(view.detach(), tensor_of(arrays, f"out_{branch}")[item], **TOLERANCE)
            total = total + (view * tensor_of(arrays, f"cotangent_{branch}")[item]).sum()
    total.backward()
    for tensor, name in zip(inputs, ("id_feats", "lang_feats", "visn_feats"), strict=True):
        torch.testing.assert_close(tensor.grad, tensor_of(arrays, f"grad_{name}"), **TOLERANCE)
    assert_gradients(parameters, parameters_of(arrays, "grad/"))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("user_encoder_*.npz")), ids=lambda path: path.stem)
def test_the_plain_sequence_encoder_equals_the_authors(path):
    meta, arrays = load(path.stem)
    parameters = leaves(parameters_of(arrays, "state/"))
    inputs = tensor_of(arrays, "input_embs").requires_grad_()
    real = torch.from_numpy(arrays["log_mask"] != 0)
    output = plain.sequence_states(parameters, inputs, real, meta["heads"])
    (output * tensor_of(arrays, "cotangent")).sum().backward()
    torch.testing.assert_close(output[real].detach(), tensor_of(arrays, "output")[real], **TOLERANCE)
    torch.testing.assert_close(inputs.grad, tensor_of(arrays, "grad_input_embs"), **TOLERANCE)
    assert_gradients(parameters, parameters_of(arrays, "grad/"))


@pytest.fixture(scope="module", params=sorted(GOLDEN.glob("model_loss_*.npz")), ids=lambda path: path.stem)
def case(request):
    meta, arrays = load(request.param.stem)
    parameters = leaves(parameters_of(arrays, "state/"))
    slots = torch.from_numpy(arrays["sample_items_id"].astype(np.int64)).view(meta["B"], meta["max_seq_len"] + 1)
    probability = torch.from_numpy(arrays["pop_prob_list"].astype(np.float32)).double()
    logits, labels = plain.logits_and_labels(parameters, slots, features_of(arrays), probability, settings_of(meta))
    return arrays, parameters, logits, labels


def test_plain_logits_and_labels_equal_the_authors(case):
    arrays, _, logits, labels = case
    assert labels.tolist() == arrays["label"].tolist()
    for branch in plain.BRANCHES:
        torch.testing.assert_close(logits[branch].detach(), tensor_of(arrays, f"logits_{branch}"), **TOLERANCE)


def test_plain_losses_equal_the_authors_at_every_setting(case):
    arrays, _, logits, labels = case
    names = ("epoch", "alpha", "tau", "ce_loss", "kl_loss")
    for epoch, alpha, tau, ce, kd in zip(*(arrays[name].tolist() for name in names), strict=True):
        found = plain.losses(logits, labels, weight_of(epoch, alpha), tau)
        assert found.ce.item() == pytest.approx(ce, abs=1e-5)
        assert found.kd.item() == pytest.approx(kd, abs=1e-5, rel=1e-6)


def test_plain_gradients_equal_the_authors(case):
    arrays, parameters, logits, labels = case
    epoch, alpha, tau = (arrays[f"grad_{name}"].item() for name in ("epoch", "alpha", "tau"))
    found = plain.losses(logits, labels, weight_of(epoch, alpha), tau)
    found.loss.backward(retain_graph=True)
    assert found.ce.item() == pytest.approx(arrays["ce64"].item(), rel=1e-12)
    assert found.kd.item() == pytest.approx(arrays["kl64"].item(), rel=1e-12)
    assert_gradients(parameters, parameters_of(arrays, "grad/"))


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("eval_*.npz")), ids=lambda path: path.stem)
def test_plain_scores_and_ranks_equal_the_authors(path, split):
    meta, arrays = load(path.stem)
    expected = meta["splits"][split]
    with torch.no_grad():
        heads = plain.scores(
            parameters_of(arrays, "state/"),
            expected["history"],
            features_of(arrays),
            meta["max_seq_len"],
            settings_of(meta),
        )
    for head, scores in heads.items():
        theirs = tensor_of(arrays, f"{split}/scores_{head}")
        torch.testing.assert_close(scores[theirs.isfinite()], theirs[theirs.isfinite()], **TOLERANCE)
        ranks = plain.ranks(scores, expected["target"], expected["history"])
        assert [rank or None for rank in ranks] == expected[f"metrics_{head}"]["rank"]


def test_equal_scores_stand_before_the_target():
    assert plain.ranks(torch.tensor([[1.0, 2.0, 1.0, 1.0]]), [3], [[4]]) == [3]


def test_a_target_in_the_history_has_rank_zero():
    assert plain.ranks(torch.tensor([[1.0, 2.0]]), [2], [[2]]) == [0]


def test_plain_kl_of_equal_logits_is_zero_and_cross_entropy_is_the_entropy():
    logits = torch.tensor([[0.0, 0.0]])
    assert plain.distillation(logits, logits, 2.0, kl=True).item() == 0.0
    assert plain.distillation(logits, logits, 2.0).item() == pytest.approx(4 * math.log(2))


def test_a_detached_plain_teacher_has_no_gradient():
    teacher = torch.tensor([[1.0, 0.0]], requires_grad=True)
    student = torch.zeros(1, 2, requires_grad=True)
    plain.distillation(student, teacher, 1.0, detach_teacher=True).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_the_plain_reference_imports_nothing_of_the_package():
    text = Path(plain.__file__).read_text(encoding="utf-8")
    assert "import odmt" not in text
    assert "from odmt" not in text
