import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

from odmt.tuning.folding import apply
from odmt.tuning.scheduler import bracket_of, is_sentinel, rungs, verdict
from odmt.tuning.sections import SchedulerConfig
from odmt.tuning.state import METRIC, Study


def study_of(count, max_epochs=9, objectives=((METRIC, "max"),)):
    study = Study()
    apply(study, {"kind": "header", "trials": count, "objectives": objectives})
    empty = {
        "values": {},
        "config": {"train": {"max_epochs": max_epochs}},
        "distributions": {},
        "system_attrs": {},
        "draws": 1,
        "time": 0.0,
    }
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


class Controller:
    """All that Ray's schedulers ask of their controller here: nobody waits."""

    def get_live_trials(self):
        return []


def interleaved(seed, count, max_epochs, tell_both):
    """Report random values, with ties, in a random order of trials; a trial that ended reports no more."""
    rng = np.random.default_rng(seed)
    epochs = dict.fromkeys(range(count), 0)
    ended = 0
    while epochs:
        number = int(rng.choice(list(epochs)))
        epochs[number] += 1
        ours, theirs = tell_both(number, epochs[number], float(np.round(rng.random(), 2)))
        if epochs[number] == max_epochs:
            assert ours == "complete"
        else:
            assert (ours == "stop") == (theirs == "STOP"), (number, epochs[number])
        if ours != "continue":
            del epochs[number]
            ended += ours == "stop"
    return ended


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.sampled_from([1.2, 1.5, 2, 2.5, 3, 4]),
    grace=st.integers(1, 5),
    brackets=st.integers(1, 3),
    max_epochs=st.integers(6, 31),
)
def test_verdicts_equal_those_of_rays_asha_scheduler(seed, factor, grace, brackets, max_epochs):
    config = SchedulerConfig(grace_period=grace, reduction_factor=factor, brackets=brackets)
    assume(all(rungs(config, max_epochs, bracket) for bracket in range(brackets)))
    theirs = ASHAScheduler(
        time_attr="epoch", metric="m", mode="max", max_t=max_epochs, grace_period=grace,
        reduction_factor=factor, brackets=brackets,
    )  # fmt: skip
    study = study_of(24, max_epochs)
    for number in range(24):
        theirs.on_trial_add(Controller(), SimpleNamespace(trial_id=number))
        study.trials[f"t{number}"].bracket = theirs._brackets.index(theirs._trial_info[number])

    def tell_both(number, epoch, value):
        trial = SimpleNamespace(trial_id=number)
        decided = theirs.on_trial_result(Controller(), trial, {"epoch": epoch, "m": value})
        return tell(study, config, max_epochs, f"t{number}", epoch, value), decided

    interleaved(seed, 24, max_epochs, tell_both)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), grace=st.integers(1, 5), least=st.integers(1, 6))
def test_median_verdicts_equal_those_of_rays_median_stopping_rule(seed, grace, least):
    config = SchedulerConfig(name="median", grace_period=grace, min_trials=least)
    theirs = MedianStoppingRule("epoch", "m", "max", grace_period=grace, min_samples_required=least)
    trials = {number: Named(number) for number in range(15)}
    study = study_of(15, 12)

    def tell_both(number, epoch, value):
        decided = theirs.on_trial_result(Controller(), trials[number], {"epoch": epoch, "m": value})
        return tell(study, config, 12, f"t{number}", epoch, value), decided

    interleaved(seed, 15, 12, tell_both)


class Named:
    """A trial that can be a key."""

    def __init__(self, trial_id):
        self.trial_id = trial_id


def test_the_median_rule_by_hand():
    # Means of the others from epoch 2 on: .4, .6, .8; their median is .6. A best of .59 stops, .6 goes on.
    config = SchedulerConfig(name="median", grace_period=2)
    for value, expected in ((0.59, "stop"), (0.6, "continue")):
        study = study_of(4)
        for number, level in enumerate((0.4, 0.6, 0.8)):
            assert [tell(study, config, 9, f"t{number}", epoch, level) for epoch in (1, 2)] == ["continue"] * 2
        assert tell(study, config, 9, "t3", 1, 0.1) == "continue"
        assert tell(study, config, 9, "t3", 2, value) == expected


def test_a_sentinel_is_never_stopped_and_still_counts_at_its_rungs():
    config = SchedulerConfig(grace_period=1, reduction_factor=2)
    study = study_of(3)
    study.trials["t1"].sentinel = True
    assert tell(study, config, 9, "t0", 1, 0.8) == "continue"
    assert tell(study, config, 9, "t1", 1, 0.2) == "continue"
    assert tell(study, config, 9, "t2", 1, 0.5) == "continue"  # the median of .8 and .2; without the sentinel a stop


def test_sentinels_are_spread_evenly_over_the_budget():
    config = SchedulerConfig(sentinels=3)
    assert [number for number in range(20) if is_sentinel(config, 20, number)] == [3, 10, 16]
    assert not any(is_sentinel(SchedulerConfig(), 20, number) for number in range(20))


def test_brackets_begin_later_each_and_most_trials_go_to_the_first():
    config = SchedulerConfig(grace_period=1, reduction_factor=3, brackets=2)
    assert [rungs(config, 31, bracket) for bracket in (0, 1)] == [[1, 3, 9, 27], [3, 9, 27]]
    dealt = [bracket_of(config, 31, 7, number) for number in range(2000)]
    assert sum(dealt) / 2000 == pytest.approx(1 / (1 + math.e), abs=0.03)  # rungs 4 and 3: e^0 against e^-1
    assert dealt[:50] == [bracket_of(config, 31, 7, number) for number in range(50)]


def test_a_bracket_compares_its_own_trials_only():
    config = SchedulerConfig(grace_period=1, reduction_factor=2, brackets=2)
    study = study_of(2)
    study.trials["t1"].bracket = 1
    tell(study, config, 9, "t0", 1, 0.9)
    tell(study, config, 9, "t0", 2, 0.9)
    assert [tell(study, config, 9, "t1", epoch, 0.1) for epoch in (1, 2)] == ["continue"] * 2


def test_every_objective_must_be_a_number():
    study = study_of(1, objectives=[[METRIC, "max"], ["cost/parameters", "min"]])
    config = SchedulerConfig(name="none")
    assert verdict(study, config, 9, "t0", 1, {METRIC: 0.5, "cost/parameters": 8.0}) == "continue"
    assert verdict(study, config, 9, "t0", 1, {METRIC: 0.5}) == "fail"
    assert verdict(study, config, 9, "t0", 1, {METRIC: 0.5, "cost/parameters": math.inf}) == "fail"
