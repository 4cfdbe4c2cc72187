"""Equal to the authors' code: fusion, sequence encoder, training forward with gradients, 20 AdamW steps."""

import numpy as np
import pytest
import torch
from golden_files import group, load, make_batch, make_model, names, tokens_of

from odmt.config import TrainConfig
from odmt.model.baselines import make_item_encoder
from odmt.model.fusion import IdAwareMultimodalTransformer
from odmt.model.items import ItemShape
from odmt.model.layout import SequenceLayout
from odmt.model.losses import Objective, distillation_weight
from odmt.model.recommender import SequentialRecommender
from odmt.model.sequence import SasRec
from odmt.training.optim import make_optimizer

TOLERANCE = {"rtol": 0, "atol": 1e-5}


def as_settings(alpha):
    """Translate the authors' alpha of two meanings to (rampup_epochs, weight)."""
    return (float(alpha), 1.0) if alpha >= 1 else (0.0, float(alpha))


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_all_close(actual, expected, **tolerance):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("name", names("imt_*.npz"))
def test_fusion_equals_the_authors(name):
    meta, arrays = load(name)
    fusion = IdAwareMultimodalTransformer(meta["d"], meta["layers"], meta["heads"], 0.0, meta["version"] == "v1")
    fusion.load_state_dict(group(arrays, "state/", imt_prefix=""))
    inputs = [torch.from_numpy(arrays[key]).requires_grad_() for key in ("id_feats", "lang_feats", "visn_feats")]
    masks = [torch.from_numpy(arrays[key] != 0) for key in ("lang_mask", "visn_mask")]
    out = fusion(*inputs, *masks)
    sum(
        (getattr(out, branch) * torch.from_numpy(arrays[f"cotangent_{branch}"])).sum() for branch in out._fields
    ).backward()
    for branch in out._fields:
        torch.testing.assert_close(
            getattr(out, branch).detach(), torch.from_numpy(arrays[f"out_{branch}"]), **TOLERANCE
        )
    for tensor, key in zip(inputs, ("id_feats", "lang_feats", "visn_feats"), strict=True):
        torch.testing.assert_close(tensor.grad, torch.from_numpy(arrays[f"grad_{key}"]), **TOLERANCE)
    assert_all_close(gradients(fusion), group(arrays, "grad/", imt_prefix=""), **TOLERANCE)


@pytest.mark.parametrize("name", names("user_encoder_*.npz"))
def test_sequence_encoder_equals_the_authors(name):
    meta, arrays = load(name)
    encoder = SasRec(meta["d"], meta["L"], meta["blocks"], meta["heads"], 0.0)
    encoder.load_state_dict(group(arrays, "state/"))
    inputs = torch.from_numpy(arrays["input_embs"]).requires_grad_()
    valid = torch.from_numpy(arrays["valid"] != 0)
    output = encoder(inputs[valid], SequenceLayout.of(torch.from_numpy(arrays["log_mask"] != 0)))
    (output * torch.from_numpy(arrays["cotangent"])[valid]).sum().backward()
    torch.testing.assert_close(output.detach(), torch.from_numpy(arrays["output"])[valid], **TOLERANCE)
    torch.testing.assert_close(inputs.grad, torch.from_numpy(arrays["grad_input_embs"]), **TOLERANCE)
    assert_all_close(gradients(encoder), group(arrays, "grad/"), **TOLERANCE)


@pytest.fixture(scope="module", params=names("model_loss_*.npz"))
def case(request):
    meta, arrays = load(request.param)
    slots = arrays["sample_items_id"].reshape(meta["B"], meta["max_seq_len"] + 1)
    return meta, arrays, make_model(meta, arrays, "state/"), make_batch(arrays, slots)


def columns_of_slots(arrays, batch):
    """Column of every real slot of the recorded logits in ours, and where those slots are."""
    ids = arrays["sample_items_id"].reshape(-1)
    real = np.flatnonzero(ids)
    order = {item: place for place, item in enumerate(batch.item_ids.tolist())}
    return torch.tensor([order[item] for item in ids[real].tolist()]), torch.from_numpy(real)


@pytest.mark.parametrize("branch", ["id", "text", "image"])
def test_logits_equal_the_authors_where_they_are_candidates(case, branch):
    _, arrays, model, batch = case
    items = model.encode_items(batch.item_ids, batch.groups)
    states = model.encode_sequences([view[batch.inputs] for view in items], batch.layout)
    place = model.branches.index(branch)
    logits = (states[place] @ items[place].T - batch.candidates.log_popularity).detach()
    column, slot = columns_of_slots(arrays, batch)
    expected = torch.from_numpy(arrays[f"logits_{branch}"])[:, slot]
    candidate = expected != -1e4
    torch.testing.assert_close(logits[:, column][candidate], expected[candidate], **TOLERANCE)


def test_candidates_and_their_counts_equal_the_authors(case):
    _, arrays, _, batch = case
    column, slot = columns_of_slots(arrays, batch)
    recorded = arrays["logits_id"] != -1e4
    counted = torch.zeros(recorded.shape[0], len(batch.item_ids), dtype=torch.float64)
    counted.index_add_(1, column, torch.from_numpy(recorded[:, slot]).double())
    label = column[torch.searchsorted(slot, torch.from_numpy(arrays["label"]))]
    ours = batch.candidates.log_count.exp().expand_as(counted)
    ours = ours.masked_fill(batch.candidates.held[batch.candidates.user], 0.0).scatter(1, label[:, None], 1.0)
    torch.testing.assert_close(batch.candidates.label, label)
    torch.testing.assert_close(ours, counted)


def test_losses_equal_the_authors_at_every_setting(case):
    _, arrays, model, batch = case
    settings = zip(*(arrays[key] for key in ("epoch", "alpha", "tau", "ce_loss", "kl_loss")), strict=True)
    for epoch, alpha, tau, ce, kd in settings:
        weight = distillation_weight(int(epoch), *as_settings(float(alpha)))
        with torch.no_grad():
            terms = model(batch, Objective(weight, float(tau)))
        assert terms.ce.item() == pytest.approx(float(ce), abs=1e-5)
        assert terms.kd.item() == pytest.approx(float(kd), abs=1e-5, rel=1e-6)


def test_gradients_equal_the_authors(case):
    _, arrays, model, batch = case
    model.zero_grad()
    weight = distillation_weight(int(arrays["grad_epoch"]), *as_settings(float(arrays["grad_alpha"])))
    terms = model(batch, Objective(weight, float(arrays["grad_tau"])))
    terms.loss.backward()
    assert terms.ce.item() == pytest.approx(float(arrays["grad_ce_loss"]), abs=1e-5)
    assert_all_close(gradients(model), group(arrays, "grad/"), **TOLERANCE)


def test_id_table_starts_as_the_authors(case):
    meta, arrays, _, _ = case
    model = make_model(meta, arrays, "state/")
    start = {0: "random", 1: "text+image", 2: "image", 3: "text"}[meta["init"]]
    summaries = tokens_of(arrays, np.arange(1, meta["item_num"] + 1))
    with torch.no_grad():
        model.item_encoder.id_table.weight[1:] = 7.0 if start != "random" else model.item_encoder.id_table.weight[1:]
    model.item_encoder.start_id_table(start, summaries.text[:, 0], summaries.image[:, 0])
    expected = torch.from_numpy(arrays["state/id_encoder.weight"])
    torch.testing.assert_close(model.item_encoder.id_table.weight[1:].detach(), expected[1:], rtol=0, atol=1e-6)


def test_starting_the_id_table_copies_the_features():
    meta, arrays = load("model_loss_09_init3_v1_l1")
    model = make_model(meta, arrays, "state/")
    summaries = tokens_of(arrays, np.arange(1, meta["item_num"] + 1))
    before = summaries.text.clone()
    model.item_encoder.start_id_table("text", summaries.text[:, 0], summaries.image[:, 0])
    with torch.no_grad():
        model.item_encoder.id_table.weight.add_(1.0)
    torch.testing.assert_close(summaries.text, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", names("training_*.npz"))
def test_twenty_steps_of_training_equal_the_authors(name):
    meta, arrays = load(name)
    model = make_model(meta, arrays, "state0/")
    optimizer = make_optimizer(model.parameters(), TrainConfig(learning_rate=1e-3, weight_decay=0.1))
    slots = arrays["sample_items_id"].reshape(5, -1, meta["max_seq_len"] + 1)
    batches = [make_batch(arrays, rows) for rows in slots]
    ramp, constant = as_settings(meta["alpha"])
    for step in range(20):
        weight = distillation_weight(int(arrays["epoch_of_step"][step]), ramp, constant)
        terms = model(batches[arrays["batch_of_step"][step]], Objective(weight, meta["tau"]))
        optimizer.zero_grad()
        terms.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        assert terms.ce.item() == pytest.approx(float(arrays["ce_loss"][step]), abs=1e-4)
        assert terms.kd.item() == pytest.approx(float(arrays["kl_loss"][step]), abs=1e-4)
        assert norm.item() == pytest.approx(float(arrays["grad_norm_before_clip"][step]), abs=1e-3)
    assert_all_close(dict(model.state_dict()), group(arrays, "state20/"), rtol=0, atol=1e-4)


def test_parameter_count_is_the_papers():
    with torch.device("meta"):
        items = make_item_encoder("imt", ItemShape(10, 768, 768, 768, 768, 2, 2, 0.1), id_masking=True)
        model = SequentialRecommender(items, {name: SasRec(768, 12, 2, 2, 0.1) for name in items.branches})
    without_table = sum(p.numel() for name, p in model.named_parameters() if "id_table" not in name)
    assert without_table == 62_025_984
