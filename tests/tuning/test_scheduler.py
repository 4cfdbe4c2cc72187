import math
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers.async_hyperband import _Bracket

from odmt.tuning.folding import apply
from odmt.tuning.scheduler import rungs, verdict
from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.state import METRIC, Study


def study_of(count):
    study = Study()
    apply(study, {"kind": "header", "trials": count})
    empty = {"values": {}, "config": {}, "distributions": {}, "system_attrs": {}, "draws": 1, "time": 0.0}
    for number in range(count):
        apply(study, {"kind": "proposed", "trial": f"t{number}", "number": number, **empty})
        apply(study, {"kind": "started", "trial": f"t{number}", "attempt": 1, "time": 0.0})
    return study


def tell(study, config, max_epochs, trial_id, epoch, value):
    decided = verdict(study, config, max_epochs, trial_id, epoch, {METRIC: value})
    record = {"metrics": {METRIC: value}, "verdict": decided, "checkpoint": None, "seconds": 0.0, "time": 0.0}
    apply(study, {"kind": "epoch", "trial": trial_id, "epoch": epoch, **record})
    return decided


def run_in_order(values, config, max_epochs=9):
    study = study_of(len(values))
    ended = []
    for number, value in enumerate(values):
        for epoch in range(1, max_epochs + 1):
            decided = tell(study, config, max_epochs, f"t{number}", epoch, value)
            if decided != "continue":
                ended.append((decided, epoch))
                break
    return ended


def test_rungs_grow_by_the_factor_and_stay_below_the_last_epoch():
    assert rungs(SchedulerConfig(grace_period=2, reduction_factor=3), 31) == [2, 6, 18]
    assert rungs(SchedulerConfig(grace_period=1, reduction_factor=3), 9) == [1, 3]
    assert rungs(SchedulerConfig(grace_period=1, reduction_factor=2.5), 10) == [1, 3, 7]
    assert rungs(SchedulerConfig(name="none"), 31) == []


def test_best_first_stops_every_later_trial_at_the_first_rung():
    found = run_in_order([0.8, 0.7, 0.6, 0.5], SchedulerConfig(grace_period=2, reduction_factor=3))
    assert found == [("complete", 9), ("stop", 2), ("stop", 2), ("stop", 2)]


def test_ascending_order_stops_none():
    found = run_in_order([0.1, 0.2, 0.3, 0.4], SchedulerConfig(grace_period=2, reduction_factor=3))
    assert found == [("complete", 9)] * 4


def test_ties_survive():
    assert run_in_order([0.5, 0.5, 0.5], SchedulerConfig(grace_period=2)) == [("complete", 9)] * 3


def test_the_cutoff_does_not_know_the_trial_it_judges():
    # Two values recorded, factor 2: the cutoff is their median 0.5; 0.49 is stopped, 0.5 goes on.
    config = SchedulerConfig(grace_period=1, reduction_factor=2)
    for value, expected in ((0.49, "stop"), (0.5, "continue")):
        study = study_of(3)
        tell(study, config, 9, "t0", 1, 0.4)
        tell(study, config, 9, "t1", 1, 0.6)
        assert tell(study, config, 9, "t2", 1, value) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_what_is_no_number_fails_and_does_not_enter_a_rung(value):
    config = SchedulerConfig(grace_period=1)
    study = study_of(3)
    assert verdict(study, config, 9, "t0", 1, {METRIC: value}) == "fail"
    tell(study, config, 9, "t0", 1, math.nan if value is None else value)
    assert tell(study, config, 9, "t1", 1, 0.001) == "continue"  # the first that counts


def test_without_a_scheduler_every_trial_completes():
    assert run_in_order([0.9, 0.1], SchedulerConfig(name="none"), 3) == [("complete", 3)] * 2


@pytest.mark.parametrize("seed", range(20))
def test_verdicts_equal_those_of_rays_bracket(seed):
    rng = np.random.default_rng(seed)
    factor, grace = float(rng.choice([2, 3, 4])), int(rng.integers(1, 4))
    config = SchedulerConfig(grace_period=grace, reduction_factor=factor)
    max_epochs, count = 20, 30
    bracket = _Bracket(grace, max_epochs, factor, 0)
    study = study_of(count)
    epochs = dict.fromkeys(range(count), 0)
    while epochs:
        number = int(rng.choice(list(epochs)))
        epochs[number] += 1
        value = float(np.round(rng.random(), 2))
        theirs = bracket.on_result(SimpleNamespace(trial_id=number), epochs[number], value)
        ours = tell(study, config, max_epochs, f"t{number}", epochs[number], value)
        if ours == "complete":
            assert epochs[number] == max_epochs
        else:
            assert (ours == "stop") == (theirs == "STOP")
        if ours != "continue":
            del epochs[number]
