"""Faults of trials, workers, nodes and disks, on a real Ray."""

import socket
import subprocess
import time
from dataclasses import replace

import psutil
import pytest
from fake_search import (
    doomed_runner,
    executed,
    greedy_runner,
    hanging_runner,
    options,
    quick_runner,
    saving_runner,
    silent_runner,
    slow_runner,
)

from odmt.errors import ServiceError
from odmt.home import Home
from odmt.tuning import driver
from odmt.tuning.driver import run_study
from odmt.tuning.event_log import read_log
from odmt.tuning.space import load_space
from odmt.tuning.watch import Watch

pytestmark = pytest.mark.slow


def folded(home, name):
    return read_log(home.study(name) / "events.jsonl")


@pytest.fixture
def small(space):
    def loaded(*assignments, trials=3):
        return load_space(str(space.path), [f"budget.trials={trials}", "scheduler.name=none", *assignments])

    return loaded


def test_out_of_memory_is_tried_once_more_in_less_memory_and_told_with_the_sizes(small, home, on_ray):
    run_study(small(), home, "greedy", options(greedy_runner))
    study = folded(home, "greedy")
    assert [trial.state for trial in study.trials.values()] == ["completed", "completed", "failed"]
    assert [trial.attempt for trial in study.trials.values()] == [1, 2, 2]
    tried_again = [(record["trial"], record["what"]) for record in study.setbacks if record["retry"]]
    assert sorted(tried_again) == [("t0001", "oom"), ("t0002", "oom")]
    assert study.trials["t0001"].adjust == {"train.recompute_items": True}
    failed = study.trials["t0002"]
    assert failed.reason.startswith("out of memory: 1048576.00 GiB more were asked for, the machine has ")
    assert failed.reason.endswith(
        "train.batch_size 8, model.embedding_dim 8, train.items_per_group auto, train.recompute_items true"
    )
    assert "can't allocate memory" in failed.traceback
    assert failed.log_tail.endswith("one more batch")
    assert study.setbacks[-1]["host"].startswith(socket.gethostname() + "/")
    assert "one more batch" in (home.study("greedy") / "trials/t0002/error.txt").read_text()


def test_a_trial_that_hangs_is_ended_once_and_goes_on_from_its_checkpoint(small, home, on_ray):
    run_study(
        small("resources.report_timeout_minutes=0.1", "resources.retry_wait_seconds=0.1"),
        home,
        "hanging",
        options(hanging_runner),
    )
    study = folded(home, "hanging")
    assert [trial.state for trial in study.trials.values()] == ["completed"] * 3
    assert [(record["trial"], record["what"]) for record in study.setbacks] == [("t0001", "hung")]
    assert study.setbacks[0]["reason"] == "no report for 0.1 minutes (resources.report_timeout_minutes)"
    assert study.trials["t0001"].attempt == 2
    assert [epoch for trial, epoch, _ in executed(home, "hanging") if trial == "t0001"] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_ends_without_a_last_report_has_failed(small, home, on_ray):
    study = run_study(small(), home, "silent", options(silent_runner))
    assert [trial.state for trial in study.trials] == ["completed", "failed", "completed"]
    assert study.trials[1].reason == "its run ended without a last report"


@pytest.mark.long
def test_a_host_where_three_attempts_die_at_once_gets_no_more_trials(small, home, ray_cluster, on_ray, monkeypatch):
    monkeypatch.setattr("odmt.tuning.journal.QUICK_SECONDS", 600.0)  # a busy machine starts workers slowly
    bad = ray_cluster.add_node(num_cpus=3, object_store_memory=200 * 2**20)
    home.study("doomed").mkdir(parents=True)
    (home.study("doomed") / "doomed.txt").write_text(bad.node_id)
    try:
        found = small(
            "resources.max_concurrent_trials=5",  # two here, three there
            "resources.max_retries=6",
            "resources.retry_wait_seconds=0.1",
            trials=5,
        )
        run_study(found, home, "doomed", options(doomed_runner))
    finally:
        ray_cluster.remove_node(bad)
    study = folded(home, "doomed")
    assert [trial.state for trial in study.trials.values()] == ["completed"] * 5
    assert list(study.aside) == [f"{socket.gethostname()}/{bad.node_id[:12]}"]
    assert {record["host"] for record in study.setbacks} == set(study.aside)
    assert 3 <= len(study.setbacks) <= 6  # some more may have been on their way there
    assert {epoch.host for trial in study.trials.values() for epoch in trial.epochs}.isdisjoint(study.aside)


def test_where_every_host_is_put_aside_the_search_ends_with_the_reason(small, home, on_ray, ray_cluster):
    home.study("nowhere").mkdir(parents=True)
    (home.study("nowhere") / "doomed.txt").write_text(ray_cluster.head_node.node_id)
    found = small("resources.retry_wait_seconds=0.1")
    with pytest.raises(
        ServiceError, match=r"no host is left .* was put aside, since 3 attempts in a row ended"
    ) as told:
        run_study(found, home, "nowhere", options(doomed_runner))
    assert told.value.exit_code == 5
    assert not folded(home, "nowhere").finished


@pytest.fixture
def small_disk(tmp_path):
    """A disk of five megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_stops_the_search_which_goes_on_once_there_is_room(small, small_disk, on_ray):
    home = Home(small_disk)
    with pytest.raises(ServiceError, match=r"the disk is full, .* MB of 0\.0 GB are free; make room and type") as told:
        run_study(small(), home, "full", options(saving_runner))
    assert told.value.exit_code == 5
    study = folded(home, "full")
    assert study.num_ended == 0
    assert all(trial.state == "running" for trial in study.trials.values())
    for path in home.study("full").glob("trials/*/state-*"):
        path.unlink()
    assert [trial.state for trial in run_study(small(), home, "full", options(quick_runner)).trials] == [
        "completed"
    ] * 3


def used_up_after(epochs, allowed_seconds):
    """A watch to which all of the time is gone once each of two trials has so many epochs."""

    class Watching(Watch):
        def __init__(self, journal, **named):
            def now():
                trials = journal.log.study.trials.values()
                over = len(trials) == 2 and all(len(trial.epochs) >= epochs for trial in trials)
                return time.time() + allowed_seconds * over

            super().__init__(journal, now=now, **named)

    return Watching


def test_a_budget_that_is_met_ends_the_search_without_losing_an_epoch(small, home, on_ray, monkeypatch):
    def run(seconds, epochs, **others):
        long = small("train.max_epochs=200", "resources.max_concurrent_trials=2")
        monkeypatch.setattr(driver, "Watch", used_up_after(epochs, seconds))
        timed = replace(long, budget=replace(long.budget, time_hours=seconds / 3600))
        assert run_study(timed, home, "timed", options(slow_runner, **others)).finished
        return folded(home, "timed")

    study = run(1000, 3)
    assert (study.limit, study.num_ended, len(study.trials)) == ("time", 0, 2)
    counts = [len(trial.epochs) for trial in study.trials.values()]
    assert all(count >= 3 for count in counts)
    ran = [(trial, epoch) for trial, epoch, _ in executed(home, "timed")]
    assert sorted(ran) == sorted((name, one.epoch) for name, trial in study.trials.items() for one in trial.epochs)
    again = run(2000, max(counts) + 3, extend=True)
    assert (again.limit, again.resumed) == ("time", 2)
    assert all(len(trial.epochs) >= max(counts) + 3 for trial in again.trials.values())
    ran = [(trial, epoch) for trial, epoch, _ in executed(home, "timed")]
    assert len(ran) == len(set(ran)) == sum(len(trial.epochs) for trial in again.trials.values())


def test_worker_processes_are_gone_and_callbacks_were_short_when_a_search_has_ended(small, home, on_ray, monkeypatch):
    watches = []

    class Kept(Watch):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            watches.append(self)

    monkeypatch.setattr(driver, "Watch", Kept)
    run_study(small(trials=12), home, "short", options(quick_runner))
    assert not any(psutil.pid_exists(pid) for _, _, pid in executed(home, "short"))
    durations = sorted(watches[0].durations)
    assert len(durations) > 12 * 7
    assert durations[int(len(durations) * 0.9)] < 0.05  # 5 ms on a quiet machine: benchmarks/overhead.py
