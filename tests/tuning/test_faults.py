"""What is done about faults, without Ray: each expected decision by hand."""

import errno
import logging
import sys
import threading
from dataclasses import replace

import pytest
import torch
from fake_search import options, quick_runner

from odmt.config import RunConfig
from odmt.errors import NonFiniteError, ServiceError
from odmt.home import Home
from odmt.tuning import budget, driver, failures
from odmt.tuning.driver import run_study
from odmt.tuning.event_log import EventLog, read_log
from odmt.tuning.failures import told
from odmt.tuning.faults import another_attempt, host_to_put_aside
from odmt.tuning.identity import open_study
from odmt.tuning.journal import LATER, Journal
from odmt.tuning.room import room_sentences
from odmt.tuning.sections import ResourcesConfig
from odmt.tuning.state import METRIC, Epoch, Study, Trial
from odmt.tuning.watch import Watch
from odmt.tuning.worker_log import WorkerLog


def trial_of(number=0, **fields):
    values = {"values": {}, "config": {"train": {}}, "distributions": {}, "system_attrs": {}, "draws": 1, "proposed": 0}
    return Trial(f"t{number:04d}", number, **values | fields)


def setback(trial, what, host="h", time=10.0, quick=True):
    return {"trial": f"t{trial:04d}", "what": what, "host": host, "time": time, "quick": quick, "reason": f"{what}!"}


def test_each_wait_before_another_attempt_is_twice_the_one_before_up_to_five_minutes():
    resources, trial = ResourcesConfig(max_retries=8, retry_wait_seconds=5), trial_of()
    study, waits = Study(), []
    while again := another_attempt(study, trial, "died", resources):
        waits.append(again.wait_seconds)
        study.setbacks.append(setback(0, "died"))
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]


def test_deaths_and_hangs_count_together_and_other_trials_not():
    study = Study(setbacks=[setback(0, "died"), setback(0, "hung"), setback(1, "died"), setback(0, "oom")])
    assert another_attempt(study, trial_of(0), "hung", ResourcesConfig(max_retries=2)) is None
    assert another_attempt(study, trial_of(1), "hung", ResourcesConfig(max_retries=2)) is not None


def test_out_of_memory_is_tried_once_more_in_less_memory_where_that_is_new():
    again = another_attempt(Study(), trial_of(), "oom", ResourcesConfig(max_retries=0))
    assert (again.wait_seconds, again.adjust) == (0, {"train.recompute_items": True})
    for settled in (
        trial_of(config={"train": {"recompute_items": True}}),
        trial_of(adjust={"train.recompute_items": True}),
    ):
        assert another_attempt(Study(), settled, "oom", ResourcesConfig()) is None


def test_a_full_disk_is_never_held_against_a_trial_and_an_error_of_its_own_always():
    spent = Study(setbacks=[setback(0, "died")] * 9)
    assert another_attempt(spent, trial_of(), "disk", ResourcesConfig()).wait_seconds == 0
    assert another_attempt(Study(), trial_of(), "error", ResourcesConfig()) is None


def test_three_quick_deaths_of_two_trials_put_a_host_aside():
    study = Study(setbacks=[setback(0, "died"), setback(0, "died"), setback(1, "hung")])
    assert host_to_put_aside(study, "h") == "3 attempts in a row ended within 60 s there, the last: hung!"
    assert host_to_put_aside(study, "g") is None


@pytest.mark.parametrize(
    "setbacks",
    [
        [setback(0, "died"), setback(1, "died")],
        [setback(0, "died")] * 3,  # one trial that dies wherever it runs
        [setback(0, "died"), setback(1, "died"), setback(2, "oom")],
        [setback(0, "died"), setback(1, "died"), setback(2, "died", quick=False)],
        [setback(0, "died"), setback(1, "died"), setback(2, "died", host="g")],
        [setback(0, "died", time=1.0), setback(1, "died"), setback(2, "died")],  # an epoch came at 5 s
    ],
)
def test_fewer_slower_or_other_setbacks_put_no_host_aside(setbacks):
    healthy = trial_of(7, epochs=[Epoch(1, {}, "continue", None, 1.0, 5.0, "h")])
    assert host_to_put_aside(Study(trials={"t0007": healthy}, setbacks=setbacks), "h") is None


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def journal(space, tmp_path, clock):
    with EventLog(tmp_path / "study") as log:
        open_study(log, "x", space, "d", extend=False)
        log.commit("opened", pid=1, host="h", code="c", cpus=1, gpus=0, concurrent=2)
        made = Journal(space, log, clock=lambda: clock[0])
        yield made
        made.close()


@pytest.fixture
def watch(journal, clock):
    return Watch(journal, clock=lambda: clock[0])


def handed_out(watch, tune_id):
    while (found := watch.hand_out(tune_id)) == LATER:
        threading.Event().wait(0.001)
    return found


def began(host="h", attempt=1):
    return {"began": True, "process": [1, 1.0], "host": host, "attempt": attempt}


def epoch_of(epoch, host="h", attempt=1):
    metrics = {METRIC: 0.1}
    return {"epoch": epoch, "metrics": metrics, "checkpoint": None, "seconds": 1.0, "host": host, "attempt": attempt}


def test_a_worker_that_dies_before_its_first_epoch_has_told_its_host(watch, journal):
    given = handed_out(watch, "a")
    assert watch.report("a", given.trial_id, began("somewhere"))
    watch.died("a", "its worker process died")
    assert [(record["what"], record["host"]) for record in journal.log.study.setbacks] == [("died", "somewhere")]


def test_an_attempt_that_hangs_is_recorded_once_whatever_its_worker_does_after(watch, journal, clock):
    given = handed_out(watch, "a")
    clock[0] += 1e6
    assert watch.overdue() == []  # waits for a worker
    watch.begun("a")
    timeout = journal.space.resources.report_timeout_minutes * 60
    clock[0] += timeout - 1
    assert watch.report("a", given.trial_id, began())
    clock[0] += timeout
    assert watch.overdue() == []
    clock[0] += 1
    assert watch.overdue() == ["a"]
    watch.died("a", "killed")
    assert not watch.report("a", given.trial_id, epoch_of(1))
    assert [record["what"] for record in journal.log.study.setbacks] == ["hung"]
    assert not journal.log.study.trials[given.trial_id].epochs


def test_a_full_disk_ends_the_search_with_its_sentence_and_no_trial(watch, journal):
    given = handed_out(watch, "a")
    failed = {"failed": "/x: the disk is full; make room", "what": "disk", "attempt": 1, "host": "h", "traceback": "T"}
    assert not watch.report("a", given.trial_id, failed)
    assert isinstance(watch.failure, ServiceError)
    assert str(watch.failure).startswith("/x: the disk is full; make room and type the same command again; 0 of 8 ")
    assert watch.is_over()
    assert watch.hand_out("b") is None
    assert journal.log.study.interrupted[0].trial_id == given.trial_id


def test_no_more_attempts_are_handed_out_than_fit_beside_the_hosts_put_aside(journal, clock):
    watch = Watch(journal, slots=lambda aside: 1, clock=lambda: clock[0])
    journal.log.commit("aside", host="bad", reason="it burns")
    handed_out(watch, "a")
    assert watch.hand_out("b") == LATER
    watch.died("a", "gone")
    assert handed_out(watch, "b") is not None


def test_without_a_host_left_the_search_ends_with_the_reason(journal):
    watch = Watch(journal, slots=lambda aside: 0)
    journal.log.commit("aside", host="bad", reason="it burns")
    assert watch.hand_out("a") is None
    assert str(watch.failure).startswith("no host is left to run trials on: bad was put aside, since it burns; mend it")


def test_a_budget_that_is_met_waits_for_the_next_report_of_those_that_run_but_no_longer_than_a_minute(journal, clock):
    journal.log.study.seconds_allowed = 3600.0
    over = [0.0]
    watch = Watch(journal, clock=lambda: clock[0], now=lambda: journal.log.study.last_time + over[0])
    first, second = handed_out(watch, "a"), handed_out(watch, "b")
    for name, given in (("a", first), ("b", second)):
        watch.begun(name)
        assert watch.report(name, given.trial_id, epoch_of(1))
    assert not watch.is_over()
    over[0] = 3601.0
    clock[0] += 2
    assert not watch.is_over()
    assert journal.log.study.limit == "time"
    assert not watch.report("a", first.trial_id, epoch_of(2))
    assert not watch.is_over()
    clock[0] += 59
    assert not watch.is_over()
    clock[0] += 1
    assert watch.is_over()
    assert [len(trial.epochs) for trial in journal.log.study.trials.values()] == [2, 1]
    assert watch.hand_out("c") is None


def test_a_signal_waits_for_nobody_when_a_budget_is_met(journal, clock):
    journal.log.study.seconds_allowed = 3600.0
    over = [0.0]
    watch = Watch(journal, clock=lambda: clock[0], now=lambda: journal.log.study.last_time + over[0])
    handed_out(watch, "a")
    watch.begun("a")
    over[0] = 3601.0
    clock[0] += 2
    assert not watch.is_over()
    watch.signalled.set()
    assert watch.is_over()


def test_a_budget_that_was_met_before_starts_no_ray(space, tmp_path, monkeypatch):
    home = Home(tmp_path)
    limited = replace(space, budget=replace(space.budget, time_hours=1.0))
    with EventLog(home.study("met")) as log:
        open_study(log, "met", limited, "fake-data", extend=False)
        log.commit("opened", pid=1, host="h", code="c", cpus=1, gpus=0, concurrent=2)
        later = log.study.last_time + 3601
        log.commit("aside", host="bad", reason="it burns", time=later)  # any record: the search has lasted that long
    monkeypatch.setattr(driver, "connect", None)  # calling it would raise
    assert run_study(limited, home, "met", options(quick_runner)).finished
    study = read_log(home.study("met") / "events.jsonl")
    assert (study.limit, round(study.seconds_used)) == ("time", 3601)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError('SafetensorError: Io error: Os { code: 28, message: "No space left on device" }'),
    ],
)
def test_every_librarys_words_for_a_full_disk_are_understood(error, tmp_path):
    found = told(error, None, tmp_path / "trials/t0001", gpu_share=0)
    assert found["what"] == "disk"
    assert found["failed"].startswith(f"{tmp_path}/trials/t0001: the disk is full, ")
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = error
    assert told(wrapped, None, tmp_path, gpu_share=0)["what"] == "disk"


def test_a_torch_file_that_cannot_be_written_is_a_full_disk_only_where_little_is_free(tmp_path, monkeypatch):
    error = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert told(error, None, tmp_path, gpu_share=0)["what"] == "error"
    monkeypatch.setattr(failures, "_LITTLE_BYTES", 2**80)
    assert told(error, None, tmp_path, gpu_share=0)["what"] == "disk"


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"), "2.50 GiB"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3221225472 bytes."),
            "3.00 GiB",
        ),
        (MemoryError("Unable to allocate 7.28 TiB for an array with shape (1,)"), "7.28 TiB"),
    ],
)
def test_out_of_memory_is_told_with_what_was_asked_for_and_the_runs_sizes(error, asked, tmp_path):
    found = told(error, RunConfig(), tmp_path, gpu_share=0.5)
    assert found["what"] == "oom"
    assert found["failed"].startswith(f"out of memory: {asked} more were asked for, ")
    assert "GiB free, train.batch_size 128, model.embedding_dim " in found["failed"]


def test_other_errors_are_told_by_their_name_and_first_line(tmp_path):
    assert told(KeyError("x"), None, tmp_path, gpu_share=0)["failed"] == "KeyError: 'x'"
    assert told(NonFiniteError("the loss is NaN"), None, tmp_path, gpu_share=0)["failed"] == "the loss is NaN"
    assert told(RuntimeError("first\nsecond"), None, tmp_path, gpu_share=0)["failed"] == "RuntimeError: first"


def test_the_last_lines_of_log_and_output_are_kept_of_this_trial_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    handlers = logging.getLogger().handlers[:]
    first = WorkerLog.installed()
    print("of the trial before")
    log = WorkerLog.installed()
    try:
        for number in range(60):
            print(f"line {number}")
        print("10 %\r20 %\r30 %", file=sys.stderr)
        logging.getLogger("odmt.x").warning("look %s", "here")
        kept = log.tail.splitlines()
        assert len(kept) == 50
        assert kept[:2] == ["line 12", "line 13"]
        assert kept[-2] == "30 %"
        assert kept[-1].endswith("WARNING odmt.x: look here")
        assert first.tail == "of the trial before"
        assert "line 59" in capsys.readouterr().out
    finally:
        logging.getLogger().handlers[:] = handlers


def test_a_stream_whose_write_returns_nothing_can_be_printed_to(monkeypatch):
    class RayStream:
        def write(self, text):
            """Return nothing, as that of a Ray worker."""

        def flush(self):
            """Do nothing."""

    monkeypatch.setattr(sys, "stdout", RayStream())
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    handlers = logging.getLogger().handlers[:]
    try:
        log = WorkerLog.installed()
        assert sys.stdout.write("a line\n") == 7
        assert log.tail == "a line"
    finally:
        logging.getLogger().handlers[:] = handlers


def test_a_disk_too_small_for_the_trials_at_once_is_refused_and_for_the_whole_study_said(tmp_path):
    study = Study(budget=10)
    with pytest.raises(ServiceError, match=r"2 trials at once need 8\.00 GB for checkpoints .* and 7\.90 GB are free"):
        list(room_sentences(tmp_path, study, 10**9, 2, free=7_900_000_000))
    (sentence,) = room_sentences(tmp_path, study, 10**9, 2, free=29_000_000_000)
    assert sentence.startswith("checkpoints may need 30.0 GB in all and 29.0 GB are free under ")
    assert list(room_sentences(tmp_path, study, 10**9, 2, free=30_000_000_000)) == []


def test_only_a_budget_that_is_used_up_is_recorded_and_once(journal):
    study = journal.log.study
    study.seconds_allowed = 100.0
    began = study.last_time
    assert not budget.record_met(journal.log, began + 99)
    assert budget.record_met(journal.log, began + 101)
    assert not budget.record_met(journal.log, began + 102)
    assert study.finished
