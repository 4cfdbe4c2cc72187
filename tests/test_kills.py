"""SIGKILL of the driver at random moments: nothing that ended is lost or repeated, and three witnesses agree."""

import os
import random
import shlex
import signal
import subprocess
import time
from collections import Counter
from typing import NamedTuple

import pytest
from fake_search import write_space
from kill_driver import space_text
from kill_evidence import after_their_end, ended, log_records, logged_runs, notes, redone
from kill_search import REAP_SECONDS, Search, last_word

from odmt.tuning.audit import audit
from odmt.tuning.event_log import read_log
from odmt.tuning.space import load_space

pytestmark = pytest.mark.slow
AT_ONCE = 2


class Plan(NamedTuple):
    """How a search is killed.

    Attributes:
        trials: of the study.
        space: its space file's text.
        epoch_seconds: of an epoch.
        kills: uniform seconds (since, low, high). ``start``: both since the driver's start; ``epoch``: both since its
            first epoch began; ``both``: from ``low`` after the start to ``high`` after the expected first epoch, which
            one more start is there to measure.
        minutes: that its last driver may take.
    """

    trials: int
    space: str
    epoch_seconds: float
    kills: list[tuple[str, float, float]]
    minutes: float


class Killed(NamedTuple):
    """A search that was killed and has ended, and two of its witnesses."""

    plan: Plan
    search: Search
    records: list
    executed: list


SHORT = Plan(8, space_text(), 1.0, [("start", 1, 12), ("epoch", 0, 4), ("epoch", 0, 4)], 5)
LONG = Plan(30, space_text(trials=30, max_epochs=10, startup_trials=8), 3.0, [("both", 1, 15)] * 20, 20)
PLANS = [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.long)]


@pytest.fixture(scope="module", params=PLANS)
def killed(request, tmp_path_factory):
    plan, folder, begun = request.param, tmp_path_factory.mktemp("kills"), time.monotonic()
    seed = int(os.environ.get("ODMT_KILL_SEED") or random.randrange(10**6))
    print(f"\nODMT_KILL_SEED={seed}: {len(plan.kills)} kills, {plan.trials} trials, {plan.epoch_seconds:g} s epochs")
    space, ray_folder = write_space(folder, plan.space), tmp_path_factory.mktemp("r")
    with Search(folder / "home", ray_folder, space, epoch_seconds=plan.epoch_seconds) as search:
        kill_again_and_again(search, plan, random.Random(seed))
        search.start()
        assert search.finish(60 * plan.minutes) == 0, search.output
        executed = notes(search.study / "executed.txt")
        print(
            f"{sum(kill.in_startup for kill in search.kills)} of {len(search.kills)} kills in start-up; "
            f"{redone(executed)} epochs begun again, at most {AT_ONCE * len(search.kills)}; "
            f"last word: {last_word(search.output)}; {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        yield Killed(plan, search, log_records(search.log), executed)


def kill_again_and_again(search, plan, draw):
    if any(since == "both" for since, _, _ in plan.kills):
        search.start()
        search.wait_for_epochs(1)
        search.process.terminate()
        assert search.finish(120) == 130, search.output
        print(f"a first epoch begins {search.startup:.1f} s after a start", flush=True)
    for number, (since, low, high) in enumerate(plan.kills, start=1):
        search.start()
        if since == "epoch":
            search.wait_for_epochs(1)
        kill = search.kill(draw.uniform(low, high + (search.startup if since == "both" else 0)))
        where, kept = "in start-up" if kill.in_startup else "while trials ran", kill.kept.count(b"\n")
        print(f"kill {number}: {kill.seconds:.1f} s after the start, {where}; {kept} records", flush=True)
        if draw.random() < 0.5:  # otherwise it starts again while orphaned workers are still at their epoch
            time.sleep(REAP_SECONDS)


def test_every_trial_ends_and_what_was_in_the_log_at_a_kill_stays_there(killed):
    assert len(killed.search.kills) == len(killed.plan.kills)
    assert sorted(ended(killed.records)) == [f"t{number:04d}" for number in range(killed.plan.trials)]
    whole = killed.search.log.read_bytes()
    for kill in killed.search.kills:
        assert whole.startswith(kill.kept)


def test_no_trial_that_had_ended_is_started_recorded_or_executed_again(killed):
    assert after_their_end(killed.records, killed.executed) == []
    recorded = Counter((record["trial"], record["epoch"]) for record in killed.records if record["kind"] == "epoch")
    assert set(recorded.values()) == {1}
    finished = {(note.trial, note.epoch) for note in killed.executed if note.what == "end"}
    assert set(recorded) == finished


def test_a_kill_costs_each_running_trial_one_epoch_at_most(killed):
    assert redone(killed.executed) <= AT_ONCE * len(killed.search.kills)
    done = Counter((note.trial, note.epoch) for note in killed.executed if note.what == "end")
    assert sum(done.values()) - len(done) <= AT_ONCE * len(killed.search.kills)


def test_the_log_counts_every_epoch_that_was_begun_again(killed):
    told = read_log(killed.search.log).epochs_redone
    assert redone(killed.executed) <= told <= AT_ONCE * (len(killed.search.kills) + 1)


def test_mlflow_has_one_run_a_trial_and_every_metric_of_every_epoch_once(killed):
    runs = logged_runs(killed.search.root)
    (parent,) = [run for run in runs if run.trial is None]
    children = {run.trial: run for run in runs if run.trial is not None}
    ends = ended(killed.records)
    assert len(runs) == killed.plan.trials + 1
    assert sorted(children) == sorted(ends)
    assert {run.parent for run in children.values()} == {parent.run_id}
    assert {run.status for run in runs} == {"FINISHED"}
    for trial, run in children.items():
        expected = {}
        for record in killed.records:
            if record["kind"] == "epoch" and record["trial"] == trial:
                for name, value in record["metrics"].items():
                    expected.setdefault(name, []).append((record["epoch"], value))
        assert {name: sorted(run.metrics[name]) for name in expected} == expected
        assert run.outcome == {"complete": "completed", "stop": "stopped"}[ends[trial]["verdict"]]


def test_the_last_driver_says_that_nothing_was_lost_or_repeated(killed):
    lost, repeated, resumed, again = last_word(killed.search.output)
    assert (lost, repeated) == (0, 0)
    assert resumed <= AT_ONCE
    assert again <= AT_ONCE


def test_every_proposal_and_verdict_can_be_derived_again_from_the_log(killed):
    assert audit(killed.search.log, load_space(killed.search.space)) == []


@pytest.fixture
def search(tmp_path, tmp_path_factory):
    space = write_space(tmp_path, space_text())
    with Search(tmp_path / "home", tmp_path_factory.mktemp("r"), space, epoch_seconds=1.0) as search:
        yield search


def the_command(search):
    return "go on with: " + shlex.join(["python", *search.words])


def test_a_signal_in_start_up_ends_it_with_the_command_to_go_on(search):
    search.start()
    search.wait_for(search.log.exists)
    time.sleep(random.uniform(0, 6))
    search.process.terminate()
    assert search.finish(60) == 130, search.output
    assert the_command(search) in search.output


def test_a_signal_ends_a_search_with_the_command_to_go_on_and_a_second_driver_is_refused(search):
    go_on = the_command(search)
    search.start()
    search.wait_for_epochs(2)
    second = search.another(subprocess.PIPE)
    words, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"is being run by process {search.process.pid}" in words.decode()
    for sent in (signal.SIGTERM, signal.SIGINT):
        search.process.send_signal(sent)
        assert search.finish(60) == 130, search.output
        assert go_on in search.output
        records = log_records(search.log)
        interrupted = {record["trial"] for record in records if record["kind"] == "started"} - set(ended(records))
        assert interrupted
        left = [run for run in logged_runs(search.root) if run.trial is None or run.trial in interrupted]
        assert {(run.status, run.outcome) for run in left} == {("KILLED", "killed")}
        assert len(left) == 1 + len(interrupted)
        if sent == signal.SIGTERM:
            search.start()
            search.wait_for_epochs(1)
