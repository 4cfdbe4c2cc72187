"""What the mirror is told of each kind of record, and what telling it costs the search."""

import threading
import time

import numpy as np
import pytest
from parts import search_events

from odmt.tracking.delivery import Delivery
from odmt.tracking.runs import RunMirror
from odmt.tuning.callbacks import MirrorListener, study_tags, trial_tags
from odmt.tuning.event_log import EventLog


class Recorder:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *values: self.calls.append((name, *values))


@pytest.fixture
def log(tmp_path):
    with EventLog(tmp_path / "study") as opened:
        search_events.begin(opened, 9)
        yield opened


@pytest.fixture
def told(log):
    recorder = Recorder()
    log.listeners.append(MirrorListener(recorder))
    return recorder.calls


def propose(log, number=0, **more):
    log.commit(
        "proposed", trial=f"t{number:04d}", number=number, values={}, config={"train": {"seed": 1}}, distributions={},
        system_attrs={}, draws=1, **more,
    )  # fmt: skip


def report(log, epoch, verdict="continue", trial="t0000"):
    log.commit(
        "epoch", trial=trial, epoch=epoch, metrics={"valid/ndcg_at_10": 0.5}, verdict=verdict, checkpoint=None,
        seconds=2.0, reason=None, host="h",
    )  # fmt: skip


def test_a_trial_tells_where_it_came_from_and_what_befell_it(log, told):
    log.commit("opened", pid=1, host="h", code="0.1.0+abc", cpus=1, gpus=0, concurrent=1)
    propose(log, source="warm-start arts/t0003", sentinel=True)
    log.commit("started", trial="t0000", attempt=1)
    setback = {"what": "oom", "reason": "8 GB asked, 6 free", "host": "h", "retry": True, "wait_seconds": 0}
    log.commit("setback", trial="t0000", attempt=1, **setback)
    log.commit("started", trial="t0000", attempt=2, adjust={"train.recompute_items": True})
    assert trial_tags(log.study, log.study.trials["t0000"]) == {
        "odmt.source": "warm-start arts/t0003",
        "odmt.attempts": "2",
        "odmt.code_version": "0.1.0+abc",
        "odmt.sentinel": "true",
        "odmt.adjusted": "train.recompute_items: True",
        "odmt.setback": "attempt 1, oom: 8 GB asked, 6 free",
    }
    assert [call[0] for call in told] == [
        "study_tagged", "trial_started", "study_tagged", "trial_started", "trial_started"
    ]  # fmt: skip
    assert told[-1][-1] == trial_tags(log.study, log.study.trials["t0000"])
    log.commit("resumed", trial="t0000", attempt=2, from_epoch=0, redone=0)
    assert len(told) == 5


def test_a_study_tells_its_starts_reused_proposals_hosts_put_aside_and_its_limit(log, told):
    log.commit("opened", pid=1, host="h", code="c", cpus=1, gpus=0, concurrent=1)
    propose(log)
    log.commit("reused", of="t0000", values={}, distributions={}, system_attrs={}, study_attrs={})
    log.commit("aside", host="h1", reason="three quick failures")
    log.commit("limit", what="time", used=10, allowed=9)
    assert study_tags(log.study) == {
        "odmt.starts": "1",
        "odmt.limit": "time",
        "odmt.reused": "1",
        "odmt.setbacks": "0",
        "odmt.aside": "h1: three quick failures",
    }
    assert told[-1] == ("study_tagged", study_tags(log.study))
    log.commit("extended", seconds=100)
    assert told[-1][1]["odmt.limit"] == "none"


def test_a_study_whose_time_is_up_is_completed_and_counts_its_interrupted_trials(log, told):
    propose(log)
    log.commit("started", trial="t0000", attempt=1)
    log.commit("limit", what="gpu-hours", used=10, allowed=9)
    MirrorListener(recorder := Recorder()).study_ended(log.study, 12.5)
    [(name, outcome, summary, when)] = recorder.calls
    assert (name, outcome, when) == ("study_ended", "completed", 12500)
    assert (summary["trials_interrupted"], summary["trials_completed"]) == (1.0, 0.0)


def test_a_failed_trial_hands_over_reason_traceback_and_last_log_lines(log, told):
    propose(log)
    log.commit("started", trial="t0000", attempt=1)
    log.commit("ended", trial="t0000", state="failed", reason="E: no", traceback="Traceback", log_tail="epoch 1")
    name, trial_id, outcome, _, checkpoint, reason, _, traceback, tail = told[-1]
    assert (name, trial_id, outcome, checkpoint) == ("trial_ended", "t0000", "failed", None)
    assert (reason, traceback, tail) == ("E: no", "Traceback", "epoch 1")


def test_what_waits_refers_to_the_log_and_copies_nothing(log, told):
    propose(log)
    log.commit("started", trial="t0000", attempt=1)
    report(log, 1)
    trial = log.study.trials["t0000"]
    assert told[0][3] is trial.config
    assert told[1][3] is trial.epochs[0].metrics


def test_telling_the_mirror_takes_microseconds_while_its_thread_hangs_in_a_request(home, log, monkeypatch):
    release, hangs = threading.Event(), threading.Event()

    def hang(delivery, events, arrived):
        hangs.set()
        release.wait(30)
        arrived(len(events))

    monkeypatch.setattr(Delivery, "send", hang)
    mirrored = RunMirror(home, experiment="e", study="s", study_id="s1", tags={}, params={})
    mirrored.start()
    mirrored.study_tagged({})
    assert hangs.wait(20)
    propose(log)
    log.commit("started", trial="t0000", attempt=1)
    report(log, 1)
    listener, study = MirrorListener(mirrored), log.study
    record = {"kind": "epoch", "trial": "t0000"}
    seconds = []
    for _ in range(5000):
        begun = time.perf_counter()
        listener(study, record)
        seconds.append(time.perf_counter() - begun)
    assert mirrored.pending == 5001
    assert np.percentile(seconds, 99) < 0.001
    release.set()
    assert mirrored.close() == 0
