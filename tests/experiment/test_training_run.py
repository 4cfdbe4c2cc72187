from itertools import islice

import numpy as np
import pytest
import torch
from small_arrays import numbers, small_arrays, small_config

from odmt.errors import ConfigError, NonFiniteError
from odmt.evaluation.metrics import ranking_metrics
from odmt.experiment.arrays import validation_floors
from odmt.experiment.build import (
    build_batches,
    build_evaluator,
    build_features,
    build_model,
    choose_device,
    load_model,
    validation_targets,
)
from odmt.experiment.run import training_run
from odmt.features.ragged import RaggedFeatures
from odmt.model.losses import Objective, candidate_loss
from odmt.training.checkpoint import CheckpointFolder, load_weights
from odmt.training.optim import make_optimizer
from odmt.training.trainer import Step, fit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def arrays():
    return small_arrays()


def test_every_epoch_is_validated_the_last_one_too(arrays):
    results = list(training_run(small_config(), arrays))
    assert [result.epoch for result in results] == [1, 2, 3, 4]
    heads = {
        f"valid/{prefix}{name}" for prefix in ("", "id/", "text/", "image/") for name in ranking_metrics(np.ones(1))
    }
    losses = {"train/loss", "train/ce", "train/kd"}
    counts = {"valid/repeat_targets", "valid/cold/users", "valid/short_history/users"}
    for result in results:
        assert heads | losses | counts <= result.metrics.keys()
        costs = {"cost/parameters", "cost/seconds_per_user"}
        assert costs <= result.metrics.keys()
        assert {name.split("/")[1] for name in result.metrics.keys() - heads - losses - counts - costs} <= {
            "cold",
            "short_history",
        }


def test_training_learns_which_item_follows_which():
    config = small_config(model={"embedding_dim": 16}, train={"max_epochs": 20})
    *_, last = training_run(config, small_arrays(users=200, cyclic=True))
    untrained = 1 / 20 * sum(1 / np.log2(rank + 1) for rank in range(1, 11))
    assert untrained < 0.25
    for head in ("", "id/", "text/", "image/"):
        assert last.metrics[f"valid/{head}ndcg_at_10"] > 0.8


def test_equal_seeds_give_equal_runs_and_other_seeds_others(arrays):
    def metrics(seed):
        return numbers(training_run(small_config(train={"max_epochs": 2, "seed": seed}), arrays))

    assert metrics(3) == metrics(3)
    assert metrics(3) != metrics(4)


def test_a_resumed_run_is_bitwise_the_undisturbed_one(arrays, tmp_path):
    whole = list(training_run(small_config(), arrays, checkpoints=CheckpointFolder(tmp_path / "whole")))
    first = training_run(small_config(), arrays, checkpoints=CheckpointFolder(tmp_path / "parts"))
    list(islice(first, 2))
    torch.manual_seed(99)
    second = list(training_run(small_config(), arrays, checkpoints=CheckpointFolder(tmp_path / "parts", attempt=2)))
    assert numbers(second) == numbers(whole)
    expected, found = load_weights(whole[-1].checkpoint), load_weights(second[-1].checkpoint)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_best_checkpoint_is_there_at_the_end(arrays, tmp_path):
    folder = CheckpointFolder(tmp_path, every_epochs=100)
    results = list(training_run(small_config(train={"max_epochs": 8}), arrays, checkpoints=folder))
    best = max(results, key=lambda result: (result.metrics["valid/ndcg_at_10"], -result.epoch))
    assert folder.of_epoch(best.epoch) is not None
    load_model(small_config(), arrays, folder.of_epoch(best.epoch))


def test_a_diverging_loss_stops_the_run_before_the_step(arrays):
    (shard,) = arrays.text.shards
    broken = arrays._replace(text=RaggedFeatures.of(np.full_like(shard.tokens, np.nan), shard.offsets))
    with pytest.raises(NonFiniteError, match="the training loss is nan in epoch 1, before the step"):
        next(training_run(small_config(), broken))


def test_training_leaves_the_shared_features_alone(arrays):
    frozen = small_arrays()
    held = [shard.tokens for features in (frozen.text, frozen.image) for shard in features.shards]
    for tokens in held:
        tokens.setflags(write=False)
    before = [tokens.copy() for tokens in held]
    wide = small_config(model={"id_init": "text"}, train={"max_epochs": 1})
    list(training_run(wide, frozen))
    for tokens, expected in zip(held, before, strict=True):
        np.testing.assert_array_equal(tokens, expected)


def test_an_id_table_from_features_of_unequal_widths_is_refused(arrays):
    with pytest.raises(ConfigError, match=r"needs an ID table as wide as the image features, got 6 and 7"):
        build_model(small_config(model={"id_init": "text+image"}), arrays, CPU)


def test_scores_stay_in_full_precision_under_autocast(arrays):
    """A bf16 run's metrics are those of its weights in float32: rounded scores would tie."""
    config = small_config(train={"precision": "bf16", "max_epochs": 1})
    model = build_model(config, arrays, CPU)
    step = Step(model, make_optimizer(model.parameters(), config.train), config.train, config.distill)
    features = build_features(config, arrays, "all", CPU)
    evaluator = build_evaluator(config, arrays, validation_targets(arrays), features)
    (done,) = fit(step, build_batches(config, arrays, features), evaluator.measure, config.train)
    assert done.valid.metrics == evaluator.measure(model).metrics
    ((batch, *_), *_) = build_batches(config, arrays, features)(1)
    with step.autocast():
        under_autocast = model(batch, Objective())
        items = [torch.nn.Parameter(view.float()) for view in model.encode_items(batch.item_ids, batch.groups)]
        states = [state.float() for state in model.encode_sequences([i[batch.inputs] for i in items], batch.layout)]
        inside = candidate_loss(states, items, batch.candidates, Objective()).loss
    outside = candidate_loss(states, items, batch.candidates, Objective()).loss
    assert under_autocast.loss.dtype == torch.float32
    assert inside.item() == outside.item()


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="--device: 'nodevice' cannot be used here"):
        choose_device("nodevice")


def test_half_precision_is_refused_on_a_cpu(arrays):
    with pytest.raises(ConfigError, match="fp16 needs a GPU, the device is cpu"):
        next(training_run(small_config(train={"precision": "fp16"}), arrays, device="cpu"))


def test_bfloat16_trains_on_a_cpu_on_request(arrays):
    (result,) = training_run(small_config(train={"precision": "bf16", "max_epochs": 1}), arrays, device="cpu")
    assert np.isfinite(result.metrics["train/loss"])


def test_two_accumulated_batches_give_the_mean_of_their_gradients(arrays):
    config = small_config(
        train={"grad_clip": 1e9, "accumulate_batches": 2}, fusion={"dropout": 0.0}, sequence={"dropout": 0.0}
    )
    model = build_model(config, arrays, CPU)
    batches = next(iter(build_batches(config, arrays, build_features(config, arrays, "all", CPU))(1)))
    assert len(batches) == 2
    grads = []
    for batch in batches:
        model.zero_grad()
        model(batch, Objective()).loss.backward()
        grads.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    distill = small_config(distill={"weight": 0.0}).distill
    Step(model, make_optimizer(model.parameters(), config.train), config.train, distill)(batches, epoch=1)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, (grads[0][name] + grads[1][name]) / 2)


def test_floors_of_the_validation_split_have_both_rankers(arrays):
    assert validation_floors(arrays.split).keys() == {"popularity", "transitions"}
