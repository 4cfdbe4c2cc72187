"""What an interrupted attempt has cost, without Ray: epochs done again and hours, each by hand."""

import threading

import pytest

from odmt.tuning import budget
from odmt.tuning.event_log import EventLog
from odmt.tuning.identity import open_study
from odmt.tuning.journal import LATER, Journal
from odmt.tuning.state import METRIC
from odmt.tuning.tune_loop import Reservation, run_loop
from odmt.tuning.watch import Watch

BEGAN = {"began": True, "process": [1, 1.0], "host": "h"}


def opened(log, devices=1):
    log.commit("opened", pid=1, host="h", code="c", cpus=devices, gpus=0, concurrent=2)


@pytest.fixture
def log(space, tmp_path):
    with EventLog(tmp_path / "study") as made:
        open_study(made, "x", space, "d", extend=False)
        yield made


class Driver:
    """A driver with one trial at work; another one on the same log stands for the next start."""

    def __init__(self, space, log, begins=True):
        opened(log)
        self.journal = Journal(space, log)
        self.watch = Watch(self.journal)
        while (given := self.watch.hand_out("a")) == LATER:
            threading.Event().wait(0.001)
        self.given = given
        self.watch.begun("a")
        if begins:
            self.reports(**BEGAN)
        self.journal.close()

    def reports(self, epoch=None, **more):
        told = {"attempt": self.given.attempt, "host": "h", **more}
        if epoch is not None:
            told |= {"epoch": epoch, "metrics": {METRIC: 0.1}, "checkpoint": None, "seconds": 1.0}
        return self.watch.report("a", self.given.trial_id, told)


def trial_of(log):
    return log.study.trials["t0000"]


def test_a_driver_killed_in_an_epoch_costs_that_epoch(space, log):
    Driver(space, log).reports(1)
    assert log.study.epochs_redone == 0
    Driver(space, log).reports(2)
    assert (log.study.resumed, log.study.epochs_redone) == (1, 1)


def test_each_of_two_attempts_that_were_killed_in_the_same_epoch_counts(space, log):
    Driver(space, log).reports(1)
    Driver(space, log)
    Driver(space, log).reports(2)
    assert (log.study.resumed, log.study.epochs_redone) == (1, 2)


def test_an_attempt_that_had_not_begun_costs_no_epoch(space, log):
    Driver(space, log, begins=False)
    Driver(space, log).reports(1)
    assert (log.study.resumed, log.study.epochs_redone) == (1, 0)


def test_an_epoch_that_was_saved_but_not_told_is_not_done_again(space, log):
    Driver(space, log).reports(1)
    second = Driver(space, log)
    second.reports(2, replayed=True)
    second.reports(3)
    assert (log.study.resumed, log.study.epochs_redone) == (1, 0)


def test_recorded_epochs_since_the_last_checkpoint_are_done_again_too(space, log):
    first = Driver(space, log)
    first.reports(1)
    first.reports(2)
    Driver(space, log).reports(2)
    assert log.study.epochs_redone == 2  # epoch 2, and epoch 3 that was under way


def test_a_search_that_stops_at_a_report_costs_no_epoch(space, log):
    first = Driver(space, log)
    first.journal.stopping.set()
    assert not first.reports(1)
    first.watch.end()
    Driver(space, log).reports(2)
    assert (log.study.resumed, log.study.epochs_redone) == (1, 0)


@pytest.mark.parametrize("ending", ["end", "died", "left"])
def test_a_search_that_stops_within_an_epoch_costs_that_epoch_and_holds_it_against_nobody(space, log, ending):
    first = Driver(space, log)
    first.journal.stopping.set()
    {
        "end": first.watch.end,
        "died": lambda: first.watch.died("a", "killed"),
        "left": lambda: first.watch.left("a"),
    }[ending]()
    assert trial_of(log).busy_since is None
    assert not log.study.setbacks
    Driver(space, log).reports(1)
    assert (log.study.resumed, log.study.epochs_redone) == (1, 1)


def test_what_an_attempt_redid_before_it_failed_is_counted(space, log):
    Driver(space, log)
    Driver(space, log).reports(failed="an error", what="error")
    assert trial_of(log).state == "failed"
    assert log.study.epochs_redone == 1


def test_what_an_attempt_did_not_begin_to_redo_is_not_counted(space, log):
    Driver(space, log)
    Driver(space, log, begins=False)
    log.commit("ended", trial="t0000", state="failed", reason="its worker died")
    assert log.study.epochs_redone == 0


def handed_out(log):
    """Hand out one trial, which holds two CPUs from 1000 s on."""
    opened(log, devices=2)
    values = {"values": {}, "distributions": {}, "system_attrs": {}, "draws": 1}
    log.commit("proposed", trial="t0000", number=0, config={"train": {"max_epochs": 6}}, time=1000.0, **values)
    log.commit("started", trial="t0000", attempt=1, time=1000.0)
    log.commit("began", trial="t0000", attempt=1, host="h", time=1010.0)


def test_hours_count_from_hand_out_until_an_attempt_is_left_also_after_the_budget_was_met(space, log):
    handed_out(log)
    log.commit("limit", what="time", used=1.0, allowed=1.0, time=1100.0)
    assert budget.device_hours(log.study, 1100.0) == pytest.approx(2 * 100 / 3600)
    log.commit("left", trial="t0000", attempt=1, in_epoch=True, time=1150.0)
    assert budget.device_hours(log.study, 9999.0) == pytest.approx(2 * 150 / 3600)


def test_hours_of_a_driver_that_was_killed_count_until_its_last_record(space, log):
    handed_out(log)
    log.commit("limit", what="gpu-hours", used=0.1, allowed=0.1, time=1100.0)
    log.commit("extended", gpu_hours=9.0, time=5000.0)
    assert budget.device_hours(log.study, 5000.0) == pytest.approx(2 * 100 / 3600)


def test_nothing_is_written_after_a_second_signal(space, log, tmp_path, monkeypatch):
    """It may have come between a record on disk and its fold: what would be written then stands on old knowledge."""

    def interrupted(tuner):
        raise KeyboardInterrupt

    driver = Driver(space, log)
    monkeypatch.setattr("ray.tune.Tuner.fit", interrupted)
    before = log.path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run_loop(driver.watch, tmp_path / "study", None, Reservation(1, 0, 2))
    assert log.path.read_bytes() == before
