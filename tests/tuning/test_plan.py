import dataclasses

import pytest
from fake_search import SOURCE, write_space

from odmt.cluster.connect import Place
from odmt.tuning import planning
from odmt.tuning.axes import Axis
from odmt.tuning.extremes import DataShape, FeatureShape, extremes
from odmt.tuning.plan import BracketPlan, Pace, Plan, bracket_plans, combinations, read_plan, write_plan
from odmt.tuning.plan_view import time_sentences
from odmt.tuning.planning import Asked, machine_size, make_outlook
from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.space import load_space

ASHA = SchedulerConfig(grace_period=1, reduction_factor=3.0)
DATA = DataShape(20, lambda config: FeatureShape(5, 6), lambda config: FeatureShape(3, 7))


def a_plan(**changed):
    usual = {"trials": 27, "max_epochs": 9, "brackets": bracket_plans(ASHA, 27, 9, seed=1), "concurrent": 2}
    return Plan(**usual | changed)


def test_a_third_of_the_trials_reaches_each_next_rung():
    (bracket,) = bracket_plans(ASHA, 27, 9, seed=1)
    assert bracket == BracketPlan(27, ((1, 27.0), (3, 9.0)), 3.0)
    assert bracket.epochs(9) == 27 * 1 + 9 * 2 + 3 * 6


def test_sentinels_reach_every_rung():
    (bracket,) = bracket_plans(dataclasses.replace(ASHA, sentinels=3), 27, 9, seed=1)
    assert bracket.rungs == ((1, 27.0), (3, 3 + 24 / 3))
    assert bracket.completed == pytest.approx(3 + 24 / 9)


def test_brackets_share_the_trials_and_begin_later():
    first, second = bracket_plans(dataclasses.replace(ASHA, brackets=2), 40, 9, seed=1)
    assert first.trials + second.trials == 40
    assert first.trials > second.trials > 0
    assert [epoch for epoch, _ in first.rungs] == [1, 3]
    assert [epoch for epoch, _ in second.rungs] == [3]
    assert second.completed == second.trials / 3


@pytest.mark.parametrize("name", ["none", "median"])
def test_nothing_is_predicted_to_stop_without_asha(name):
    plan = a_plan(brackets=bracket_plans(SchedulerConfig(name=name), 27, 9, seed=1))
    assert plan.epochs == plan.epochs_of_all == 27 * 9


def test_hours_are_epochs_over_trials_at_once_and_no_less_than_one_trial_takes():
    plan = a_plan()
    assert plan.epochs == 63
    assert plan.hours(3600.0) == 31.5
    assert a_plan(concurrent=100).hours(3600.0) == 9.0
    assert a_plan(concurrent=None).hours(3600.0) is None


def test_device_hours_count_gpus_by_their_share_and_cpus_where_there_are_none():
    assert a_plan(gpus=0.5, cpus=4.0).device_hours(3600.0) == 31.5
    assert a_plan(gpus=0.0, cpus=4.0).device_hours(3600.0) == 252.0
    assert (a_plan(gpus=0.5).device, a_plan().device) == ("GPU", "CPU")


def test_the_budget_that_is_met_first_is_named():
    pace = Pace(3600.0, "measured")
    assert a_plan(pace=pace, time_hours=40.0, max_gpu_hours=70.0).ended_by is None
    assert a_plan(pace=pace, time_hours=30.0, max_gpu_hours=20.0).ended_by == "budget.max_gpu_hours"
    assert a_plan(pace=pace, time_hours=10.0, max_gpu_hours=60.0).ended_by == "budget.time_hours"
    assert a_plan(time_hours=1.0).ended_by is None


def test_the_time_is_told_with_its_span_and_the_budget_that_ends_it():
    words = list(time_sentences(a_plan(pace=Pace(3600.0, "measured", 1800.0, 5400.0), time_hours=10.0), probed=True))
    assert words[0] == "3.6e+03 s an epoch: measured"
    assert words[1].startswith("about 31 h 30 min (15 h 45 min if all were the smallest, 47 h 15 min if all were the")
    assert (
        words[2]
        == "at most budget.time_hours 10; budget.time_hours is expected to end it before its trials are through"
    )
    assert list(time_sentences(a_plan(), probed=False)) == ["unknown: add --probe"]
    assert list(time_sentences(a_plan(), probed=True)) == ["unknown: no configuration could be timed"]


def test_checkpoints_hold_weights_and_two_moments_three_times_a_trial():
    assert a_plan(parameters=1000).checkpoint_bytes == 27 * 3 * 12 * 1000
    assert a_plan().checkpoint_bytes is None


def test_a_plan_comes_back_as_it_was_kept(tmp_path):
    assert read_plan(tmp_path) is None
    write_plan(tmp_path, a_plan(pace=Pace(60.0, "measured"), parameters=10))
    kept = read_plan(tmp_path)
    assert (kept["trials"], kept["epochs"], kept["completed"], kept["seconds_per_epoch"]) == (27, 63.0, 3.0, 60.0)
    assert kept["hours"] == pytest.approx(31.5 / 60)
    (tmp_path / "plan.json").write_text("{")
    assert read_plan(tmp_path) is None


BARE = """
fixed:
  data: {max_seq_len: 4}
  model: {id_init: random}
  sequence: {num_layers: 1, num_heads: 1}
  train: {max_epochs: 6}
budget: {trials: 8}
resources: {gpus_per_trial: 0}
"""


def with_axes(folder, axes, incumbent):
    return load_space(write_space(folder, f"{BARE}incumbent: {incumbent}\naxes:\n{axes}"))


CHOICES = """  train.batch_size: {type: choice, values: [8, 16]}
  distill.weight: {type: choice, values: [0.0, 0.5, 1.0]}
  distill.rampup_epochs: {type: int, low: 1, high: 4, when: {distill.weight: [0.5, 1.0]}}
"""
FIRST = "{train.batch_size: 8, distill.weight: 1.0, distill.rampup_epochs: 2}"


def test_combinations_are_counted_through_their_conditions(tmp_path):
    assert combinations(with_axes(tmp_path, CHOICES, FIRST)) == 2 * (1 + 2 * 4)


def test_a_range_without_steps_has_no_end_of_combinations(space):
    assert combinations(space) is None


def test_no_more_trials_are_planned_than_there_are_combinations(tmp_path, home):
    space = with_axes(tmp_path, "  train.batch_size: {type: choice, values: [8, 16]}\n", "{train.batch_size: 8}")
    assert make_outlook(space, home, Asked("x", source=SOURCE)).plan.trials == 2


SIZES = """  fusion.num_layers: {type: int, low: 1, high: 3}
  train.batch_size: {type: choice, values: [8, 16]}
  train.weight_decay: {type: uniform, low: 0.0, high: 1.0}
  model.embedding_dim: {type: choice, values: [8, 16]}
"""
SIZE_FIRST = "{fusion.num_layers: 2, train.batch_size: 8, train.weight_decay: 0.1, model.embedding_dim: 8}"


def test_the_extremes_are_the_ends_that_make_the_model_smaller_and_larger(tmp_path):
    smallest, largest = extremes(with_axes(tmp_path, SIZES, SIZE_FIRST), DATA)
    assert [smallest.values[path] for path in ("fusion.num_layers", "model.embedding_dim", "train.batch_size")] == [
        1,
        8,
        8,
    ]
    assert [largest.values[path] for path in ("fusion.num_layers", "model.embedding_dim", "train.batch_size")] == [
        3,
        16,
        16,
    ]
    assert smallest.values["train.weight_decay"] == largest.values["train.weight_decay"] == 0.1  # costs nothing
    assert smallest.parameters < largest.parameters


def test_parameters_are_those_of_the_model_that_is_trained(space):
    import torch
    from small_arrays import small_arrays

    from odmt.experiment.build import build_model

    smallest, _ = extremes(space, DATA)
    model = build_model(smallest.config, small_arrays(), torch.device("cpu"))
    assert smallest.parameters == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_a_combination_that_is_not_possible_is_passed_over(tmp_path):
    axes = SIZES + "  fusion.num_heads: {type: choice, values: [1, 2]}\n"
    first = SIZE_FIRST.replace("}", ", fusion.num_heads: 1}")
    space = with_axes(tmp_path, axes, first)
    odd = Axis("model.embedding_dim", "choice", values=(8, 16, 9))
    space = dataclasses.replace(space, axes={**space.axes, "model.embedding_dim": odd})
    _, largest = extremes(space, DATA)
    assert largest.values["model.embedding_dim"] == 16


def test_a_cluster_is_not_asked(space, home, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    outlook = make_outlook(space, home, Asked("x", source=SOURCE))
    assert "the cluster was not asked what it has" in outlook.machine
    assert outlook.plan.concurrent == 2  # resources.max_concurrent_trials
    assert outlook.plan.hours(1.0) is not None


def test_what_does_not_fit_is_a_warning(space, home, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(planning, "machine_size", lambda: (1, 0))
    monkeypatch.setattr(planning, "_free", lambda path: 1000)
    space = dataclasses.replace(space, resources=dataclasses.replace(space.resources, cpus_per_trial=4.0))
    outlook = make_outlook(space, home, Asked("x", source=SOURCE))
    assert outlook.place == Place("local", "a local Ray, because RAY_ADDRESS is not set")
    assert outlook.warnings[0].startswith("no trial fits here: a trial wants 4 CPUs")
    assert "checkpoints of all trials may need more than is free on the disk" in outlook.warnings
    assert outlook.plan.hours(1.0) is None


def test_gpus_are_counted_without_torch(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,3")
    assert machine_size()[1] == 3
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert machine_size()[1] == 0
