"""One optimiser step: what stops it, and what torch.compile may not change."""

import pytest
import torch
from small_arrays import small_arrays, small_config

from odmt.errors import NonFiniteError
from odmt.experiment.build import build_run
from odmt.model.losses import Objective
from odmt.training.batches import Shard
from odmt.training.trainer import MOST_OVERFLOWS

CPU = torch.device("cpu")
STILL = {"fusion": {"dropout": 0.0}, "sequence": {"dropout": 0.0}}


def make(**sections):
    return build_run(small_config(**sections), small_arrays(), None, CPU, Shard())


def test_gradients_that_always_overflow_end_an_fp16_run_instead_of_training_nothing():
    run = make()
    run.step.scaler = torch.amp.GradScaler("cpu")
    run.step.model.item_encoder.heads["id"][0].weight.register_hook(lambda grad: grad * float("inf"))
    group = next(iter(run.batches(1)))
    before = run.step.scaler.get_scale()
    for _ in range(MOST_OVERFLOWS):
        run.step(group, 1)
    assert run.step.scaler.get_scale() == before / 2**MOST_OVERFLOWS
    with pytest.raises(NonFiniteError, match=r"the gradient's norm is (inf|nan) in epoch 1, before the step"):
        run.step(group, 1)


def test_a_gradient_that_overflows_once_is_skipped_and_forgotten():
    run = make()
    run.step.scaler = torch.amp.GradScaler("cpu")
    weight = run.step.model.item_encoder.heads["id"][0].weight
    group = next(iter(run.batches(1)))
    hook = weight.register_hook(lambda grad: grad * float("inf"))
    before = weight.detach().clone()
    run.step(group, 1)
    assert torch.equal(weight, before)
    hook.remove()
    run.step(group, 1)
    assert run.step.overflows == 0
    assert not torch.equal(weight, before)


def test_a_gradient_that_is_not_finite_stops_a_float32_run_before_the_step():
    run = make()
    weight = run.step.model.item_encoder.heads["id"][0].weight
    weight.register_hook(lambda grad: grad * float("nan"))
    before = weight.detach().clone()
    with pytest.raises(NonFiniteError, match="the gradient's norm is nan in epoch 1, before the step"):
        run.step(next(iter(run.batches(1))), 1)
    assert torch.equal(weight, before)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_item_encoder_gives_the_same_loss_and_gradients(recompute):
    """Traced and run by torch's eager backend: what is traced must be the computation, in every shape of group."""
    run = make(**STILL, train={"recompute_items": recompute, "items_per_group": 7})
    model, found = run.step.model, []
    (batch,) = next(iter(run.batches(1)))
    for compiled in (False, True):
        if compiled:
            model.item_encoder.compile(backend="aot_eager", dynamic=True)
        model.zero_grad()
        loss = model(batch, Objective(1.0, 0.5)).loss
        loss.backward()
        found.append({"loss": loss.detach()} | {name: part.grad for name, part in model.named_parameters()})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, msg=lambda text, name=name: f"{name}: {text}")
