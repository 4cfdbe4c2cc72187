import dataclasses
import math
import numbers
import time
from types import SimpleNamespace

import pytest
from ray.tune.utils import flatten_dict

from odmt.errors import SharedFeaturesError, StudyChangedError, StudyError
from odmt.tuning.callbacks import MirrorListener
from odmt.tuning.event_log import EventLog
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.search import StudyScheduler, StudySearch, StudyStopper, unpacked
from odmt.tuning.sections import BudgetConfig, ResourcesConfig
from odmt.tuning.space import load_space
from odmt.tuning.state import METRIC
from odmt.tuning.study import read_study
from odmt.tuning.trial import packed
from odmt.tuning.watch import Watch


def with_budget(space, trials):
    return dataclasses.replace(space, budget=BudgetConfig(trials=trials))


def begun(space, home, name="x"):
    log = EventLog(home.study(name))
    open_study(log, name, space, "digest", extend=False)
    return log, Journal(space, log)


def tried(space, home):
    """Leave a study behind that has one trial."""
    log, journal = begun(space, home)
    journal.next_assignment()
    log.close()


def report(epoch, value, checkpoint=None):
    return {"epoch": epoch, "metrics": {METRIC: value, "train/loss": 1.0}, "checkpoint": checkpoint, "seconds": 0.1}


def test_a_study_is_read_from_its_log_alone(space, home, tmp_path):
    log, journal = begun(space, home)
    first, second, third = (journal.next_assignment().trial_id for _ in range(3))
    checkpoint = tmp_path / "e000002-a001-ab"
    checkpoint.mkdir()
    for epoch, value in enumerate([0.1, 0.5, 0.5, 0.2, 0.3, 0.4], start=1):
        journal.report(first, report(epoch, value, str(checkpoint)))
    journal.report(second, report(1, math.nan))
    journal.report(third, report(1, 0.9))
    study = read_study(home, "x")
    assert [trial.state for trial in study.trials] == ["completed", "failed", "running"]
    assert (study.space_name, study.dataset, study.data_digest, study.budget) == ("small", "demo", "digest", 8)
    assert study.best.trial_id == first  # the third one has not ended
    assert (study.best.best_epoch, study.best.best_value, study.best.best_checkpoint) == (2, 0.5, checkpoint)
    assert study.best.config.train.max_epochs == 6
    assert not study.finished
    log.close()
    assert [trial.state for trial in read_study(home, "x").trials] == ["completed", "failed", "killed"]
    checkpoint.rename(tmp_path / "e000002-a002-cd")  # saved again by a later attempt
    assert read_study(home, "x").best.best_checkpoint == tmp_path / "e000002-a002-cd"


def test_an_unknown_study_lists_those_that_exist(space, home):
    with pytest.raises(StudyError, match=r"there is no study 'y' .*none yet; make one: python launch/tune.py"):
        read_study(home, "y")
    begun(space, home)[0].close()
    with pytest.raises(StudyError, match=r"there is no study 'y' under .*; studies: x"):
        read_study(home, "y")


def test_another_space_or_other_data_is_refused_with_a_diff(space, home):
    tried(space, home)
    other = load_space(str(space.path), ["train.batch_size=16", "train.weight_decay=0.5", "scheduler.grace_period=3"])
    with EventLog(home.study("x")) as log:
        with pytest.raises(StudyChangedError) as caught:
            open_study(log, "x", other, "other", extend=True)
        lines = str(caught.value).splitlines()
        assert lines[0] == "study 'x' was made otherwise; use another --study NAME, or undo:"
        assert "  - train.batch_size: was 8, is 16" in lines
        assert "  - scheduler.grace_period: was 2, is 3" in lines
        assert any(line.startswith("  - axes.train.weight_decay: is gone, was {") for line in lines)
        assert "  - prepared data: digest was digest, is other" in lines


def test_a_study_without_a_trial_may_be_begun_otherwise(space, home):
    begun(space, home)[0].close()
    with EventLog(home.study("x")) as log:
        open_study(log, "x", with_budget(space, 3), "other", extend=False)
        assert (log.study.budget, log.study.header["data_digest"]) == (3, "other")
    assert read_study(home, "x").budget == 3


def test_only_extend_raises_the_number_of_trials(space, home):
    tried(space, home)
    with EventLog(home.study("x")) as log:
        with pytest.raises(StudyChangedError, match=r"budget\.trials: was 8, is 9; add --extend"):
            open_study(log, "x", with_budget(space, 9), "digest", extend=False)
        with pytest.raises(StudyChangedError, match=r"budget\.trials: was 8, is 5; it can only grow"):
            open_study(log, "x", with_budget(space, 5), "digest", extend=True)
        open_study(log, "x", with_budget(space, 9), "digest", extend=True)
        assert log.study.budget == 9
        open_study(log, "x", space, "digest", extend=False)  # the command that began it still goes on
        assert log.study.budget == 9


def test_a_tainted_study_does_not_go_on(space, home):
    log, journal = begun(space, home)
    trial = journal.next_assignment().trial_id
    assert journal.report(trial, {"tainted": "row 3"}) == "stop"
    assert journal.stopping.is_set()
    with pytest.raises(SharedFeaturesError, match="cannot go on: row 3"):
        open_study(log, "x", space, "digest", extend=False)
    assert read_study(home, "x").tainted == "row 3"
    log.close()


def suggested(search, tune_id):
    """Ask until there is an answer, as Tune does."""
    while (given := search.suggest(tune_id)) is None:
        time.sleep(0.001)
    return given


def test_tune_is_told_what_the_journal_decides(space, home, monkeypatch):
    space = dataclasses.replace(space, resources=ResourcesConfig(max_retries=1, retry_wait_seconds=0.0))
    log, journal = begun(space, home)
    monkeypatch.setattr("odmt.tuning.search.alive_nodes", list)  # no Ray here
    watch = Watch(journal)
    search, scheduler, stopper = StudySearch(watch), StudyScheduler(watch), StudyStopper(watch)
    names = [f"tune{number}" for number in range(3)]
    trials = [SimpleNamespace(trial_id=name, config=suggested(search, name)) for name in names]
    trials[2].get_error = lambda: "Traceback\nActorDiedError: gone"
    scheduler.on_trial_error(None, trials[2])
    assert log.study.setbacks[0]["reason"] == "its worker process died; ActorDiedError: gone"
    assert suggested(search, "tune3")["attempt"] == log.study.trials["t0002"].attempt == 2
    assert [trial.config["trial_id"] for trial in trials] == ["t0000", "t0001", "t0002"]
    assert trials[0].config["config"]["train"]["max_epochs"] == 6

    def told(trial, epoch, value):
        result = packed({"epoch": epoch, "metrics": {METRIC: value}, "checkpoint": None, "seconds": 0.1})
        return scheduler.on_trial_result(None, trial, {**result, "trial_id": "tune9"})

    assert [told(trials[0], epoch, 0.5) for epoch in range(1, 7)] == ["CONTINUE"] * 5 + ["STOP"]
    assert [told(trials[1], 1, 0.4), told(trials[1], 2, 0.4)] == ["CONTINUE", "STOP"]
    scheduler.on_trial_error(None, SimpleNamespace(trial_id="tune3", get_error=lambda: None))
    assert [trial.state for trial in log.study.trials.values()] == ["completed", "stopped", "failed"]
    journal.stopping.set()
    assert stopper.stop_all()
    assert search.suggest("tune4") == "FINISHED"
    log.close()


def test_metrics_come_back_as_they_were_reported_and_tune_keeps_statistics_of_none():
    metrics = {"valid/ndcg_at_10": 0.5, "train/loss": 1.0}
    sent = packed({"epoch": 1, "metrics": metrics})
    assert [name for name, value in flatten_dict(sent).items() if isinstance(value, numbers.Number)] == ["epoch"]
    assert unpacked({**sent, "time_total_s": 3})["metrics"] == metrics


class Recorder:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *values: self.calls.append((name, *values))


def test_the_mirror_gets_the_same_live_and_from_the_log(space, home):
    log, journal = begun(space, home)
    live, later = Recorder(), Recorder()
    log.listeners.append(MirrorListener(live))
    for value in (0.5, 0.4):
        trial = journal.next_assignment().trial_id
        for epoch in range(1, 7):
            if journal.report(trial, report(epoch, value)) != "continue":
                break
    MirrorListener(later).send_all(log.study)
    assert live.calls == later.calls
    assert [call[0] for call in live.calls].count("trial_epoch") == 8  # six, and two until the rung
    started = live.calls[0]
    assert started[:3] == ("trial_started", "t0000", 0)
    assert started[3]["train"]["weight_decay"] == 0.1
    ended = live.calls[-1]
    assert ended[:3] == ("trial_ended", "t0001", "stopped")
    assert ended[3] == {METRIC: 0.4, "train/loss": 1.0, "epoch": 1.0}
    MirrorListener(later).study_ended(log.study, 12.5)
    name, outcome, summary, when = later.calls[-1]
    assert (name, outcome, when) == ("study_ended", "killed", 12500)  # two of eight
    assert (summary["trials_completed"], summary["trials_stopped"], summary["best/ndcg_at_10"]) == (1.0, 1.0, 0.5)
    log.close()


def test_a_view_tells_what_was_used_and_what_went_wrong(space, home):
    log, journal = begun(load_space(str(space.path), ["budget.time_hours=2"]), home)
    log.commit("opened", pid=1, host="h", code="c", cpus=2.0, gpus=0.0, concurrent=1)
    trial = journal.next_assignment().trial_id
    journal.setback(trial, "died", "its worker process died", host="h")
    log.commit("limit", what="time", used=2.0, allowed=2.0)
    log.close()
    study = read_study(home, "x")
    assert (study.limit, study.hours_allowed, study.gpu_hours_allowed, study.device) == ("time", 2.0, None, "CPU")
    assert (study.setbacks, study.reused, study.epochs_redone) == (1, 0, 0)
    assert study.seconds_used == log.study.seconds_used > 0
    assert study.device_hours == log.study.device_seconds / 3600 > 0
