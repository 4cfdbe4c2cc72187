import math

import numpy as np
import pytest
import torch
from small_arrays import small_arrays, small_config

from odmt.experiment.build import build_run
from odmt.training.batches import Shard
from odmt.training.optim import choose_precision, learning_rate_factor, make_optimizer, torch_settings
from odmt.training.trainer import fit

CPU = torch.device("cpu")


def train_config(**settings):
    return small_config(train=settings).train


def factors(steps_per_epoch, **settings):
    config = train_config(**settings)
    return [
        learning_rate_factor(step, steps_per_epoch, config) for step in range(config.max_epochs * steps_per_epoch + 1)
    ]


def test_a_constant_schedule_is_one_throughout():
    assert factors(3, max_epochs=4) == [1.0] * 13


def test_a_warm_up_rises_in_equal_steps_from_above_zero_to_one():
    assert factors(4, max_epochs=2, warmup_epochs=1) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1])


def test_a_warm_up_may_take_a_part_of_an_epoch():
    assert factors(8, max_epochs=1, warmup_epochs=0.25) == pytest.approx([1 / 3, 2 / 3, *[1.0] * 7])


def test_a_cosine_falls_from_one_to_zero_after_the_last_step():
    expected = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    assert factors(2, max_epochs=2, schedule="cosine") == pytest.approx(expected)


def test_a_cosine_starts_where_the_warm_up_ends():
    expected = [1 / 3, 2 / 3, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    assert factors(2, max_epochs=3, schedule="cosine", warmup_epochs=1) == pytest.approx(expected)


def test_a_long_cosine_ends_near_zero_but_not_at_it():
    assert 0 < factors(100, max_epochs=10, schedule="cosine")[-2] < 1e-5


def test_a_warm_up_over_all_epochs_never_falls():
    found = factors(3, max_epochs=2, schedule="cosine", warmup_epochs=2)
    assert found == pytest.approx([(step + 1) / 7 for step in range(7)])


def test_the_optimizer_has_the_schedule_s_rate_in_every_step():
    settings = {"max_epochs": 3, "warmup_epochs": 0.5, "schedule": "cosine", "learning_rate": 0.01, "batch_size": 8}
    config = small_config(train=settings)
    run = build_run(config, small_arrays(users=30), None, CPU, Shard())
    rates = []
    take = run.step.optimizer.step

    def recorded(*args, **kwargs):
        rates.append([group["lr"] for group in run.step.optimizer.param_groups])
        return take(*args, **kwargs)

    run.step.optimizer.step = recorded
    for _ in fit(run.step, run.batches, lambda model: None, config.train):
        pass
    assert len(run.batches) == 4  # 8, 8, 8 and 6 users; half an epoch of warm-up is 2 steps, 10 of the cosine follow
    cosine = [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    np.testing.assert_allclose(rates, [[0.01 * factor] for factor in [1 / 3, 2 / 3, *cosine]], rtol=1e-12)


def test_a_resumed_part_goes_on_with_the_schedule():
    config = small_config(train={"max_epochs": 2, "schedule": "cosine", "learning_rate": 0.01, "batch_size": 30})
    run = build_run(config, small_arrays(users=30), None, CPU, Shard())
    for _ in fit(run.step, run.batches, lambda model: None, config.train, epochs_done=1):
        pass
    assert run.step.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_weight_decay_is_on_every_parameter_of_one_group():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    (group,) = make_optimizer(model.parameters(), train_config(weight_decay=0.3)).param_groups
    assert group["weight_decay"] == 0.3
    assert len(group["params"]) == 4


@pytest.fixture
def _flags():
    """Leave torch's process-wide settings as they were."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def flags():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


@pytest.mark.usefixtures("_flags")
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(("deterministic", "warn_only"), [(False, False), (True, False), (True, True)])
def test_a_run_leaves_torch_s_settings_as_it_found_them(deterministic, warn_only, tf32):
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    before = flags()
    for asked in (False, True):
        with torch_settings(train_config(deterministic=asked)):
            assert torch.are_deterministic_algorithms_enabled() == (asked or deterministic)
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        assert flags() == before


@pytest.mark.usefixtures("_flags")
def test_a_run_that_fails_leaves_torch_s_settings_as_it_found_them():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    before = flags()
    with pytest.raises(RuntimeError, match="of the run"), torch_settings(train_config(deterministic=True)):
        raise RuntimeError("of the run")
    assert flags() == before


@pytest.mark.usefixtures("_flags")
def test_a_deterministic_run_asks_for_more_than_warnings():
    torch.use_deterministic_algorithms(True, warn_only=True)
    with torch_settings(train_config(deterministic=True)):
        assert not torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize(("name", "dtype"), [("auto", None), ("fp32", None), ("bf16", torch.bfloat16)])
def test_a_cpu_computes_in_float32_unless_told_otherwise(name, dtype):
    assert choose_precision(name, CPU) == (dtype, False)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_scales_its_loss(monkeypatch, has_bf16, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose_precision("auto", torch.device("cuda")) == (dtype, not has_bf16)
