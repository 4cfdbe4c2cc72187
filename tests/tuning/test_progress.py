import io
import json
import math

import pytest
from rich.console import Console

from odmt.tuning.estimates import seconds_left
from odmt.tuning.event_log import EventLog
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.json_lines import JsonLines
from odmt.tuning.progress import StudyProgress
from odmt.tuning.rung_view import RungRow, rung_line, rung_rows
from odmt.tuning.space import load_space
from odmt.tuning.state import METRIC, Study
from odmt.tuning.study import view
from odmt.tuning.trials import Trial
from odmt.tuning.wording import clock, counted, shown_values


@pytest.fixture
def begun(space, home):
    with EventLog(home.study("x")) as log:
        open_study(log, "x", space, "digest", extend=False)
        log.commit("opened", pid=1, host="h", code="c", cpus=1.0, gpus=0.0, concurrent=2)
        yield log, Journal(space, log)


def report(epoch, value):
    return {"epoch": epoch, "metrics": {METRIC: value}, "checkpoint": None, "seconds": 0.1, "host": "h"}


def run_trial(journal, *values):
    trial = journal.next_assignment().trial_id
    for epoch, value in enumerate(values, start=1):
        if journal.report(trial, report(epoch, value)) != "continue":
            break
    return trial


def rendered(progress, width, height):
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(progress)
    return console.export_text().splitlines()


def busy_search(log, journal):
    """Three that ended, one that waits after a bad attempt, three that run."""
    run_trial(journal, *[0.5] * 6)
    run_trial(journal, 0.3, 0.3)
    run_trial(journal, math.nan)
    waiting = run_trial(journal, 0.4)
    for _ in range(3):
        run_trial(journal, 0.1)
    journal.setback(waiting, "died", "its worker process died; " + "why " * 60, host="h")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 15), (40, 8), (30, 4), (20, 2)])
def test_the_view_fits_every_terminal(begun, space, width, height):
    log, journal = begun
    busy_search(log, journal)
    lines = rendered(StudyProgress(log.study, space, standing=lambda: "MLflow: " + "x" * 200), width, height)
    assert 1 <= len(lines) < height
    assert max(map(len, lines)) <= width


def test_the_view_shows_counts_best_values_rungs_warnings_and_mlflow(begun, space):
    log, journal = begun
    busy_search(log, journal)
    shown = "\n".join(rendered(StudyProgress(log.study, space, standing=lambda: "MLflow: up to date"), 120, 40))
    assert "3 of 8 trials: 1 completed, 1 stopped, 1 failed, 3 running, 1 waiting" in shown
    assert "best 0.5000  t0000  temperature=0.5 weight_decay=0.1" in shown
    assert "epoch 2         2  0.4000        1" in shown  # of 0.5 and 0.3 the upper half
    assert "attempts that ended badly: died 1; the last: its worker process died" in shown
    assert "MLflow: up to date" in shown
    assert "CPU hours used" in shown


def test_the_best_may_be_a_trial_that_still_runs(begun, space):
    log, journal = begun
    busy_search(log, journal)
    journal.setback(run_trial(journal, 0.8), "died", "gone", host="h")
    run_trial(journal, 0.7)
    progress = StudyProgress(log.study, space)
    assert "best 0.8000 in t0007 (waiting), " in progress.summary()
    assert any("best 0.8000  t0007 (waiting)  temperature" in line for line in rendered(progress, 120, 40))


def test_what_runs_is_shown_before_what_has_ended(begun, space):
    log, journal = begun
    busy_search(log, journal)
    lines = rendered(StudyProgress(log.study, space), 60, 11)
    assert [line[:5] for line in lines[-4:]] == ["t0003", "t0004", "t0005", "t0006"]


def test_every_bracket_has_rungs_of_its_own(space, home):
    space = load_space(str(space.path), ["scheduler.brackets=2", "train.max_epochs=9"])
    with EventLog(home.study("x")) as log:
        open_study(log, "x", space, "digest", extend=False)
        journal = Journal(space, log)
        for value in (0.4, 0.2, 0.3):
            run_trial(journal, value, value)
        of_first = sum(trial.bracket == 0 for trial in log.study.trials.values())
        rows = rung_rows(log.study, space)
    assert [(row.bracket, row.epoch) for row in rows] == [(0, 2), (0, 4), (0, 8), (1, 4), (1, 8)]
    assert rows[0].recorded == of_first
    assert rows[3] == RungRow(1, 4, 0, None, 0)


def test_without_a_terminal_a_line_a_trial_that_ends_and_one_between_every_15_seconds(begun, space):
    log, journal = begun
    now = [log.study.last_time]
    written = io.StringIO()
    with StudyProgress(log.study, space, console=Console(file=written, width=60), clock=lambda: now[0]) as progress:
        log.listeners.append(progress)
        run_trial(journal, *[0.6] * 6)
        run_trial(journal, math.nan)
        running = run_trial(journal, 0.2)
        now[0] += 16
        journal.report(running, report(2, 0.7))
        journal.report(running, report(3, 0.7))
        journal.setback(running, "hung", "no report for 1 min", host="h")
    lines = written.getvalue().splitlines()
    assert lines[0].startswith("t0000 completed at epoch 6, 0.6000; 1 of 8 trials (1 completed, 0 stopped, 0 failed)")
    assert lines[1].startswith("t0001 failed at epoch 1, nan: epoch 1: the validation metric is not a finite number; ")
    assert lines[2].startswith("t0002 running at epoch 2, 0.7000; ")
    assert "best 0.6000 in t0000, " in lines[1]
    assert "best 0.7000 in t0002 (running), " in lines[2]
    assert lines[3] == "attempt 1 of t0002 ended badly (hung): no report for 1 min"
    assert len(lines) == 4
    assert "\x1b" not in written.getvalue()


def test_plain_lines_tell_mlflows_standing_now_and_then_and_whenever_events_wait(begun, space):
    log, journal = begun
    now, standing = [log.study.last_time], ["MLflow at x: up to date"]
    written = io.StringIO()
    console = Console(file=written, width=60)
    log.listeners.append(
        StudyProgress(log.study, space, standing=lambda: standing[0], console=console, clock=lambda: now[0])
    )
    for later, words in [(0, "up to date"), (10, "up to date"), (0, "2 events wait"), (61, "up to date")]:
        now[0] += later
        standing[0] = f"MLflow at x: {words}"
        run_trial(journal, math.nan)
    told = [line.partition("; MLflow at x: ")[2] for line in written.getvalue().splitlines()]
    assert told == ["up to date", "", "2 events wait", "up to date"]


def running_study(**allowed):
    """One of four trials has ended after 4 epochs, one runs and has done 1, on two CPUs; an hour is used."""
    study = Study(budget=4, devices=2.0, seconds_used=3600.0, device_seconds=3600.0, last_time=0.0, **allowed)
    for number, (state, epochs) in enumerate([("stopped", 4), ("running", 1)]):
        trial = Trial(f"t{number}", number, {}, {}, {}, {}, 1, 0.0, state=state)
        trial.epochs = [None] * epochs
        trial.busy_since = 0.0 if state == "running" else None
        study.trials[f"t{number}"] = trial
    return study


def test_the_time_left_is_that_of_the_epochs_to_come_or_of_the_first_budget_that_is_met():
    # 2 trials to come x 4 epochs + 3 of the one that runs, 10 s each
    assert seconds_left(running_study(), 6, 10.0, now=0.0) == 110.0
    assert seconds_left(running_study(), 6, None, now=0.0) is None
    assert seconds_left(running_study(seconds_allowed=3660.0), 6, 10.0, now=0.0) == 60.0
    # 0.5 CPU hours are left, one trial takes 2 CPUs
    assert seconds_left(running_study(gpu_hours_allowed=1.5), 6, 1000.0, now=0.0) == 900.0
    assert seconds_left(running_study(seconds_allowed=100.0), 6, None, now=0.0) == 0.0


def test_machines_are_told_what_matters(begun, space):
    log, journal = begun
    lines = []
    listener = JsonLines(lines.append)
    log.listeners.append(listener)
    log.commit("opened", pid=1, host="h", code="c", cpus=1.0, gpus=0.0, concurrent=2)
    run_trial(journal, 0.2, *[0.5] * 5)
    run_trial(journal, math.nan)
    journal.setback(run_trial(journal, 0.1), "died", "gone", host="h")
    log.commit("aside", host="h", reason="three quick failures")
    log.commit("limit", what="time", used=1.0, allowed=1.0)
    listener.finished(view("x", log.study, running=False))
    told = [json.loads(line) for line in lines]
    assert [one["event"] for one in told] == [
        "opened", "trial_started", "trial_ended", "trial_started", "trial_ended", "trial_started", "setback",
        "host_aside", "limit", "finished",
    ]  # fmt: skip
    assert (told[0]["study"], told[0]["trials"], told[0]["trials_at_once"]) == ("x", 8, 2)
    assert told[2]["values"] == {"distill.temperature": 0.5, "train.weight_decay": 0.1}
    assert (told[2]["outcome"], told[2]["epochs"], told[2]["best"], told[2]["best_epoch"]) == ("completed", 6, 0.5, 2)
    assert (told[4]["outcome"], told[4]["best"]) == ("failed", None)
    assert (told[6]["what"], told[6]["retry"]) == ("died", True)
    assert (told[-1]["best_trial"], told[-1]["limit"], told[-1]["setbacks"]) == ("t0000", "time", 1)


def test_rungs_in_one_line_tell_the_cutoff_as_it_is_now():
    assert rung_line([RungRow(None, 2, 5, 0.03, 4)]) == "rungs 2: 5 there, 4 stopped, cutoff now 0.0300"


def test_one_is_singular():
    assert [counted(number, "CPU") for number in (1.0, 2.0, 0.5)] == ["1 CPU", "2 CPUs", "0.5 CPUs"]


def test_durations_read_as_people_say_them():
    assert [clock(seconds) for seconds in (5.4, 89, 125, 7260)] == ["5 s", "89 s", "2 min 05 s", "2 h 01 min"]


def test_values_are_named_without_their_section_where_that_is_clear():
    values = {"train.learning_rate": 0.00123456, "fusion.dropout": 0.1, "sequence.dropout": 0.2}
    assert shown_values(values) == "learning_rate=0.00123 fusion.dropout=0.1 sequence.dropout=0.2"
