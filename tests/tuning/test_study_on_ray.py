"""Whole studies on a real Ray, with a stand-in for training."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from fake_search import (
    LARGE_BYTES,
    SOURCE,
    dying_runner,
    executed,
    failing_runner,
    fake_split,
    gathering_runner,
    large_plan,
    large_shard,
    options,
    quick_runner,
    writing_runner,
)
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from small_arrays import small_arrays, without_times

from odmt.cluster.shared_features import Loaders
from odmt.errors import MissingDataError, SharedFeaturesError, StudyChangedError, StudyLockedError
from odmt.experiment.run import training_run
from odmt.tuning import driver
from odmt.tuning.driver import run_study
from odmt.tuning.event_log import read_log
from odmt.tuning.preflight import Inputs, Source
from odmt.tuning.samplers import rebuilt_study
from odmt.tuning.space import load_space
from odmt.tuning.study import read_study

pytestmark = pytest.mark.slow


class RecordingMirror:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *values: self.calls.append((name, *values)) or 0


@pytest.fixture
def no_ray(monkeypatch):
    def refuse(*arguments, **named):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(driver, "connect", refuse)


def test_a_study_runs_to_its_end_and_is_only_read_after_that(space, home, on_ray, monkeypatch):
    mirror = RecordingMirror()
    study = run_study(space, home, "whole", options(quick_runner, make_mirror=lambda header: mirror))
    assert [trial.number for trial in study.trials] == list(range(8))
    assert study.finished
    assert study.trials[0].values == {"distill.temperature": 0.5, "train.weight_decay": 0.1}
    completed = [trial for trial in study.trials if trial.state == "completed"]
    stopped = [trial for trial in study.trials if trial.state == "stopped"]
    assert len(completed) + len(stopped) == 8
    assert all(len(trial.epochs) == 6 for trial in completed)
    assert all(len(trial.epochs) in (2, 4) for trial in stopped)
    lowest = min(study.trials, key=lambda trial: trial.values["train.weight_decay"])
    assert study.best.trial_id == lowest.trial_id
    ran = executed(home, "whole")
    assert len({(trial, epoch) for trial, epoch, _ in ran}) == len(ran)
    assert len({pid for _, _, pid in ran}) < 8  # workers are reused
    names = [call[0] for call in mirror.calls]
    assert [names.count(name) for name in ("trial_started", "trial_ended", "study_ended", "close")] == [8, 8, 1, 1]
    assert names.count("trial_epoch") == len(ran)

    monkeypatch.setattr(driver, "connect", None)  # calling it would raise
    again = RecordingMirror()
    assert run_study(space, home, "whole", options(quick_runner, make_mirror=lambda header: again)) == study
    assert [call[0] for call in again.calls].count("trial_epoch") == len(ran)
    more = replace(space, budget=replace(space.budget, trials=9))
    with pytest.raises(StudyChangedError, match=r"budget\.trials: was 8, is 9; add --extend"):
        run_study(more, home, "whole", options(quick_runner))


def test_missing_data_is_found_before_ray_starts_and_leaves_no_study(space, home, no_ray):
    def missing(home, space):
        raise MissingDataError("not prepared")

    with pytest.raises(MissingDataError, match="not prepared"):
        run_study(space, home, "none", options(quick_runner, source=Source(missing, SOURCE.loaders)))
    assert not home.study("none").exists()


def test_failures_end_a_trial_with_its_reason_and_the_search_goes_on(space, home, on_ray):
    study = run_study(space, home, "failing", options(failing_runner))
    states = [trial.state for trial in study.trials]
    assert states.count("failed") == 3
    assert len(states) == 8
    assert study.trials[1].reason == "epoch 2: the validation metric is not a finite number"
    assert study.trials[2].reason.startswith("ZeroDivisionError: no such luck (traceback: ")
    assert "no such luck" in (home.study("failing") / "trials/t0002/error.txt").read_text()
    assert study.trials[3].reason == "the loss is NaN at step 7"
    told = rebuilt_study(space, read_log(home.study("failing") / "events.jsonl"), RandomSampler(seed=0)).trials
    assert [told[number].state for number in (1, 2, 3)] == [TrialState.FAIL] * 3
    pruned = {trial.number for trial in told if trial.state == TrialState.PRUNED}
    assert pruned == {trial.number for trial in study.trials if trial.state == "stopped"}


def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(space, home, on_ray):
    small = load_space(str(space.path), ["budget.trials=3", "scheduler.name=none"])
    study = run_study(small, home, "dying", options(dying_runner))
    assert [trial.state for trial in study.trials] == ["completed"] * 3
    assert [trial.attempts for trial in study.trials] == [1, 2, 1]
    assert [epoch for trial, epoch, _ in executed(home, "dying") if trial == "t0001"] == [1, 2, 3, 4, 5, 6]
    assert [epoch for epoch, _ in study.trials[1].epochs] == [1, 2, 3, 4, 5, 6]


def test_a_write_to_shared_features_stops_the_study_for_good(space, home, on_ray):
    with pytest.raises(SharedFeaturesError, match=r"found by trial t000.*shared features were written to in place"):
        run_study(space, home, "tainted", options(writing_runner))
    assert len(read_study(home, "tainted").trials) < 8
    with pytest.raises(SharedFeaturesError, match=r"cannot go on: .*start another with --study NAME"):
        run_study(space, home, "tainted", options(quick_runner))


def test_private_memory_does_not_grow_with_the_features(space, home, on_ray):
    small = load_space(str(space.path), ["budget.trials=2", "scheduler.name=none", "train.max_epochs=4"])
    source = Source(
        lambda home, space: Inputs("large", 2 * LARGE_BYTES, []), Loaders(fake_split, large_plan, large_shard)
    )
    study = run_study(small, home, "large", options(gathering_runner, source=source))
    ran = executed(home, "large")
    assert len({pid for _, _, pid in ran}) == 2  # two trials at once, each with a worker of its own
    for trial in study.trials:
        metrics = [values for _, values in trial.epochs]
        assert len(metrics) == 4
        assert max(values["anonymous_grown"] for values in metrics) < 30 * 2**20
        assert max(values["uss_grown"] for values in metrics) < 2 * LARGE_BYTES / 6  # only what it looked at
        assert {values["writeable"] for values in metrics} == {0.0}


def test_a_reused_worker_computes_what_a_fresh_process_does(space, home, on_ray):
    small = load_space(
        str(space.path),
        ["budget.trials=3", "resources.max_concurrent_trials=1", "scheduler.name=none", "train.max_epochs=2"],
    )
    study = run_study(small, home, "real", options(training_run))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for trial in study.trials:
            alone = [without_times(done.metrics) for done in training_run(trial.config, small_arrays())]
            assert [without_times(metrics) for _, metrics in trial.epochs] == alone
    finally:
        torch.set_num_threads(threads)
    assert study.best.best_checkpoint.is_dir()


def wait_for_epochs(home, name, count, process):
    deadline = time.monotonic() + 120
    path = home.study(name) / "executed.txt"
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} epochs: {process.communicate()}")


@pytest.mark.long
def test_a_killed_driver_loses_no_trial_and_repeats_none(space, home, on_ray):
    script = str(next(path for path in map(os.path.abspath, sys.path) if path.endswith("tests")) + "/fake_search.py")
    command = [sys.executable, script, str(home.root), str(space.path), "killed"]

    def start():
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    first = start()
    wait_for_epochs(home, "killed", 7, first)
    with pytest.raises(StudyLockedError, match=f"is being run by process {first.pid}"):
        run_study(space, home, "killed", options(quick_runner))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    ended = {trial.trial_id: trial for trial in read_study(home, "killed").trials if trial.state != "killed"}
    last = start()
    _, words = last.communicate(timeout=200)
    assert last.returncode == 0, words
    study = read_study(home, "killed")
    assert [trial.number for trial in study.trials] == list(range(8))
    assert study.count("completed") + study.count("stopped") == 8
    assert {trial.trial_id: trial for trial in study.trials if trial.trial_id in ended} == ended
    pairs = [(trial, epoch) for trial, epoch, _ in executed(home, "killed")]
    assert len(pairs) - len(set(pairs)) <= 2  # at most the epoch that was being run, for each of two trials
    assert {(trial.trial_id, epoch) for trial in study.trials for epoch, _ in trial.epochs} <= set(pairs)
