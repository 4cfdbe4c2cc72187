from itertools import islice

import numpy as np
import pytest
import torch
from small_arrays import numbers, small_arrays, small_config

from odmt.evaluation.metrics import ranking_metrics
from odmt.experiment import run as run_module
from odmt.experiment.build import build_run
from odmt.experiment.run import training_run
from odmt.features.ragged import RaggedFeatures
from odmt.training.batches import Shard
from odmt.training.checkpoint import CheckpointFolder, load_checkpoint, load_weights

BACKBONES = ["sasrec", "gru4rec", "nextitnet"]
ITEM_ENCODERS = ["imt", "late", "early-sum", "early-concat", "non-invasive", "id", "text", "image"]
STILL = {"fusion": {"dropout": 0.0}, "sequence": {"dropout": 0.0}}
"""Without dropout the order in which items are encoded leaves no trace but rounding."""


@pytest.fixture(scope="module")
def arrays():
    return small_arrays()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def metrics_of(results):
    return numbers(results)


def run_metrics(arrays, **sections):
    return metrics_of(training_run(small_config(**sections), arrays))


def assert_close(found, expected, rtol):
    assert [one.keys() for one in found] == [one.keys() for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=rtol, atol=1e-6)


def assert_equal_weights(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("item_encoder", "backbone", "loss"),
    [("imt", backbone, "in-batch") for backbone in BACKBONES]
    + [("id", backbone, "in-batch") for backbone in BACKBONES]
    + [("imt", "sasrec", "sampled"), ("imt", "sasrec", "full"), ("id", "gru4rec", "sampled"), ("id", "sasrec", "full")],
)
def test_six_epochs_are_three_and_three_after_a_resume_bit_for_bit(arrays, tmp_path, item_encoder, backbone, loss):
    config = small_config(
        model={"item_encoder": item_encoder, "backbone": backbone},
        fusion={"dropout": 0.2},
        sequence={"dropout": 0.2},
        loss={"kind": loss, "num_negatives": 9},
        train={"max_epochs": 6, "schedule": "cosine", "warmup_epochs": 0.5, "accumulate_batches": 2, "batch_size": 4},
    )
    whole = list(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path / "whole")))
    first = training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path / "parts"))
    list(islice(first, 3))
    first.close()
    torch.manual_seed(99)
    second = list(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path / "parts", attempt=2)))
    assert metrics_of(second) == metrics_of(whole)
    assert [result.is_last for result in second] == [False] * 5 + [True]
    assert_equal_weights(load_weights(second[-1].checkpoint), load_weights(whole[-1].checkpoint))


def test_the_optimizer_s_state_is_the_same_after_a_resume(arrays, tmp_path):
    config = small_config()
    whole = list(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path / "whole")))
    list(islice(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path / "parts")), 2))
    second = list(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path / "parts", attempt=2)))
    cpu = torch.device("cpu")
    expected, found = (load_checkpoint(results[-1].checkpoint, cpu).state["optimizer"] for results in (whole, second))
    assert found["param_groups"] == expected["param_groups"]
    for number, state in expected["state"].items():
        assert all(torch.equal(found["state"][number][name], value) for name, value in state.items())


@pytest.fixture
def scripted(monkeypatch):
    """Return a function that makes validation report given NDCG values, one an epoch."""

    def script(values):
        measured = iter(values)

        def replaced(*args):
            evaluator = build_evaluator(*args)
            measure = evaluator.measure

            def scripted_measure(model):
                found = measure(model)
                return found._replace(metrics=found.metrics | {"ndcg_at_10": next(measured)})

            object.__setattr__(evaluator, "measure", scripted_measure)
            return evaluator

        monkeypatch.setattr(run_module, "build_evaluator", replaced)

    build_evaluator = run_module.build_evaluator
    return script


@pytest.mark.parametrize(
    ("patience", "values", "epochs"),
    [
        (1, [0.3, 0.3], 2),  # equal is not better
        (2, [0.1, 0.2, 0.1, 0.3, 0.2, 0.3], 6),
        (3, [0.5, 0.4, 0.3, 0.2], 4),
        (9, [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1], 8),
    ],
)
def test_a_run_ends_after_patience_epochs_without_a_better_value(arrays, scripted, patience, values, epochs):
    scripted(values)
    config = small_config(train={"max_epochs": 8, "early_stopping_patience": patience})
    results = list(training_run(config, arrays))
    assert [result.epoch for result in results] == list(range(1, epochs + 1))
    assert [result.is_last for result in results] == [False] * (epochs - 1) + [True]


def test_without_patience_a_run_takes_all_its_epochs(arrays, scripted):
    scripted([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert len(list(training_run(small_config(train={"max_epochs": 6}), arrays))) == 6


def test_a_resumed_run_that_had_stopped_early_tells_the_same_and_trains_nothing(
    arrays, tmp_path, scripted, monkeypatch
):
    scripted([0.5, 0.4, 0.3])
    config = small_config(train={"max_epochs": 8, "early_stopping_patience": 2}, checkpoint={"every_epochs": 100})
    first = list(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path, every_epochs=100)))
    assert len(first) == 3
    assert first[-1].checkpoint is not None

    def never(*args):
        raise AssertionError("a run that has ended was built again")

    monkeypatch.setattr(run_module, "build_run", never)
    again = list(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path, attempt=2)))
    assert [result._replace(replayed=False) for result in again] == first
    assert all(result.replayed for result in again)


def test_patience_counts_across_a_resume(arrays, tmp_path, scripted):
    config = small_config(train={"max_epochs": 8, "early_stopping_patience": 2})
    scripted([0.5, 0.4])
    list(islice(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path)), 2))
    scripted([0.3])
    results = list(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path, attempt=2)))
    assert [result.epoch for result in results] == [1, 2, 3]
    assert results[-1].is_last


@pytest.mark.parametrize("item_encoder", ["imt", "id"])
def test_a_checkpoint_holds_the_ranks_that_the_reported_metrics_are_made_of(arrays, tmp_path, item_encoder):
    config = small_config(model={"item_encoder": item_encoder})
    results = list(training_run(config, arrays, checkpoints=CheckpointFolder(tmp_path)))
    last = load_checkpoint(results[-1].checkpoint, torch.device("cpu"))
    assert set(last.ranks) == ({"fused", "id", "text", "image"} if item_encoder == "imt" else {"fused"})
    for head, ranks in last.ranks.items():
        assert ranks.shape == (arrays.split.num_users,)
        prefix = "valid/" if head == "fused" else f"valid/{head}/"
        for name, value in ranking_metrics(ranks).items():
            assert results[-1].metrics[prefix + name] == value
        assert results[-1].metrics[f"{prefix}hr_at_10"] == np.mean(ranks <= 10)


@pytest.mark.parametrize("item_encoder", ["imt", "non-invasive"])
@pytest.mark.parametrize(
    "options", [{"recompute_items": True}, {"items_per_group": 1}, {"items_per_group": 3, "recompute_items": True}]
)
def test_how_items_are_grouped_or_kept_changes_no_number(arrays, item_encoder, options):
    sections = STILL | {"model": {"item_encoder": item_encoder}}
    plain = run_metrics(arrays, **sections, train={"max_epochs": 2})
    assert_close(run_metrics(arrays, **sections, train={"max_epochs": 2} | options), plain, rtol=1e-4)


def test_recomputed_items_have_the_dropout_masks_they_had(arrays):
    plain, recomputed = (
        run_metrics(arrays, train={"max_epochs": 3, "items_per_group": 4, "recompute_items": recompute})
        for recompute in (False, True)
    )
    assert_close(recomputed, plain, rtol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("item_encoder", ITEM_ENCODERS)
def test_every_item_encoder_trains_with_every_backbone(arrays, item_encoder, backbone):
    found = run_metrics(arrays, model={"item_encoder": item_encoder, "backbone": backbone}, train={"max_epochs": 2})
    assert len(found) == 2
    assert all(np.isfinite(value) for metrics in found for value in metrics.values())
    assert found[1]["train/ce"] < found[0]["train/ce"]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("item_encoder", ITEM_ENCODERS)
def test_every_parameter_has_a_gradient_which_data_parallelism_waits_for(arrays, item_encoder, backbone):
    config = small_config(model={"item_encoder": item_encoder, "backbone": backbone}, distill={"weight": 0.0})
    run = build_run(config, arrays, None, torch.device("cpu"), Shard())
    run.step(next(iter(run.batches(1))), epoch=1)
    assert [name for name, parameter in run.step.model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", ["in-batch", "full", "sampled"])
def test_accumulated_batches_train_under_every_loss(arrays, kind):
    found = run_metrics(arrays, loss={"kind": kind}, train={"max_epochs": 2, "accumulate_batches": 3, "batch_size": 4})
    assert len(found) == 2
    assert all(np.isfinite(value) for metrics in found for value in metrics.values())


def test_a_batch_larger_than_the_data_is_all_users_at_once(arrays):
    larger, exact = (
        run_metrics(arrays, train={"max_epochs": 2, "batch_size": size}) for size in (1000, arrays.split.num_users)
    )
    assert larger == exact


def test_a_deterministic_run_gives_the_same_numbers_and_leaves_torch_as_it_was(arrays):
    before = torch.are_deterministic_algorithms_enabled()
    plain, deterministic = (
        run_metrics(arrays, train={"max_epochs": 2, "deterministic": asked}) for asked in (False, True)
    )
    assert_close(deterministic, plain, rtol=1e-5)
    assert torch.are_deterministic_algorithms_enabled() == before


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_input_position_is_enough(arrays, backbone):
    found = run_metrics(
        arrays._replace(split=arrays.split._replace(max_seq_len=1)),
        data={"max_seq_len": 1},
        model={"embedding_dim": 8, "id_init": "random", "backbone": backbone},
        train={"max_epochs": 2},
    )
    assert all(np.isfinite(value) for metrics in found for value in metrics.values())


@pytest.mark.parametrize("kind", ["in-batch", "full", "sampled"])
def test_one_item_in_the_whole_catalogue_trains_and_is_never_hit(arrays, kind):
    """Every target lies in its user's history, and with one candidate there is nothing to learn."""
    split = arrays.split._replace(item_rows=arrays.split.item_rows[:1], items=np.ones_like(arrays.split.items))
    found = run_metrics(arrays._replace(split=split), loss={"kind": kind}, train={"max_epochs": 2})
    assert [metrics["train/ce"] for metrics in found] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert found[-1]["valid/repeat_targets"] == split.num_users


@pytest.mark.parametrize("item_encoder", ["imt", "text", "non-invasive"])
def test_a_catalogue_without_any_text_token_trains(arrays, item_encoder):
    none = RaggedFeatures.of(np.empty((0, 6), dtype=np.float16), np.zeros(arrays.text.num_rows + 1, dtype=np.int64))
    found = run_metrics(arrays._replace(text=none), model={"item_encoder": item_encoder}, train={"max_epochs": 2})
    assert all(np.isfinite(value) for metrics in found for value in metrics.values())
