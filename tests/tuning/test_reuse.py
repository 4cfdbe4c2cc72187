"""Proposals that equal earlier trials, several objectives, and proposals that take their time."""

import threading

import pytest
from fake_search import SPACE, write_space
from optuna.study import StudyDirection
from optuna.trial import TrialState

from odmt.tuning import proposer
from odmt.tuning.event_log import EventLog, read_log
from odmt.tuning.identity import open_study
from odmt.tuning.journal import LATER, Journal
from odmt.tuning.samplers import Proposal, make_sampler, propose, rebuilt_study
from odmt.tuning.space import load_space
from odmt.tuning.state import METRIC

INERT = """
fixed: {train: {max_epochs: 3}}
incumbent: {distill.weight: 0.0, distill.temperature: 0.3}
axes:
  distill.weight: {type: choice, values: [0.0, 1.0]}
  distill.temperature: {type: choice, values: [0.3, 0.6]}
scheduler: {name: none}
budget: {trials: 30}
"""
SEVERAL = SPACE.replace("grace_period: 2, reduction_factor: 2", "name: none") + "objectives: {cost/parameters: min}\n"


def report(epoch, value, **more):
    return {"epoch": epoch, "metrics": {METRIC: value}, "checkpoint": None, "seconds": 0.1, "is_last": True, **more}


@pytest.fixture
def begin(tmp_path):
    """A function that gives a log and a journal on a space's text."""
    logs = []

    def given(text, sets=()):
        space = load_space(write_space(tmp_path, text), sets)
        log = EventLog(tmp_path / "study")
        logs.append(log)
        open_study(log, "x", space, "d", extend=False)
        return space, log, Journal(space, log)

    yield given
    for log in logs:
        log.close()


def run_all(log, journal):
    while (given := journal.next_assignment()) is not None:
        journal.report(given.trial_id, report(1, 0.1 + given.number / 10))
    return log.study


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "qmc"])
def test_values_that_differ_where_it_does_nothing_are_run_once(begin, sampler):
    _, log, journal = begin(INERT, [f"sampler.name={sampler}"])
    study = run_all(log, journal)
    effective = [
        (
            trial.values["distill.weight"],
            trial.values["distill.temperature"] if trial.values["distill.weight"] else None,
        )
        for trial in study.trials.values()
    ]
    assert sorted(effective, key=str) == [(0.0, None), (1.0, 0.3), (1.0, 0.6)]
    assert study.exhausted
    assert bool(study.reused) == (sampler != "grid")  # the grid's loops pass over what equals an earlier trial


def test_a_reused_proposal_is_told_with_the_earlier_trials_result(begin):
    space, log, journal = begin(INERT, ["sampler.name=random"])
    study = run_all(log, journal)
    told = rebuilt_study(space, study, make_sampler(space, 3, 1)).trials
    assert len(told) == len(study.order) == 3 + len(study.reused)
    reuse = study.reused[0]
    place = study.order.index(reuse)
    assert told[place].params == dict(reuse.values)
    assert (told[place].state, told[place].value) == (TrialState.COMPLETE, study.trials[reuse.of].best.value)


def test_a_trial_of_other_code_is_not_reused(begin, tmp_path):
    space, log, journal = begin(INERT, ["sampler.name=random"])
    journal.report(journal.next_assignment().trial_id, report(1, 0.5))
    log.commit("opened", pid=1, host="h", code="another commit", cpus=1, gpus=0, concurrent=1)
    trials = [journal.next_assignment() for _ in range(2)]
    keys = [space.canonical(log.study.trials[given.trial_id].values) for given in trials]
    assert len(set(keys)) == 2
    study = run_all(log, journal)
    assert len(study.trials) == 4  # three runs of the new code beside the one of the old


def test_several_objectives_are_told_to_the_sampler(begin):
    space, log, journal = begin(SEVERAL, ["sampler.name=nsga2", "sampler.startup_trials=10"])
    for value in (0.3, 0.5):
        given = journal.next_assignment()
        assert (
            journal.report(given.trial_id, report(1, value, metrics={METRIC: value, "cost/parameters": 9.0}))
            == "complete"
        )
    told = rebuilt_study(space, log.study, make_sampler(space, 2, 1))
    assert told.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert [trial.values for trial in told.trials] == [[0.3, 9.0], [0.5, 9.0]]


def test_samplers_other_than_tpe_are_told_that_stopped_trials_are_complete(begin):
    space, log, journal = begin(SPACE, ["sampler.name=gp"])
    values = {0: 0.9, 1: 0.1}
    for number, value in values.items():
        given = journal.next_assignment()
        for epoch in range(1, 7):
            if journal.report(given.trial_id, {**report(epoch, value), "is_last": False}) != "continue":
                break
        assert log.study.trials[given.trial_id].state == ("completed", "stopped")[number]
    told = rebuilt_study(space, log.study, make_sampler(space, 2, 1)).trials
    assert [(trial.state, trial.value) for trial in told] == [(TrialState.COMPLETE, 0.9), (TrialState.COMPLETE, 0.1)]


def test_a_slow_sampler_holds_up_no_report(begin, monkeypatch):
    _, log, journal = begin(SPACE)
    first = journal.next_assignment().trial_id
    gate = threading.Event()

    def slow(space, study):
        gate.wait(10)
        return propose(space, study)

    monkeypatch.setattr(proposer, "propose", slow)
    assert journal.try_assignment() == LATER
    assert journal.report(first, {**report(1, 0.5), "is_last": False}) == "continue"
    assert journal.try_assignment() == LATER
    gate.set()
    second = journal.next_assignment()
    assert second.trial_id == "t0001"
    records = read_log(log.path).records
    journal.close()
    assert records == 6  # header, proposed, started, epoch, proposed, started


def test_a_proposal_says_how_many_records_it_was_made_from(begin, monkeypatch):
    import json

    _, log, journal = begin(SPACE)
    first = journal.next_assignment().trial_id
    gate = threading.Event()
    monkeypatch.setattr(proposer, "propose", lambda space, study: gate.wait(10) and propose(space, study))
    journal.try_assignment()
    journal.report(first, {**report(1, 0.5), "is_last": False})
    gate.set()
    journal.next_assignment()
    records = [json.loads(line) for line in log.path.read_text().splitlines()]
    proposed = [record for record in records if record["kind"] == "proposed"]
    assert [record["asof"] for record in proposed] == [1, 3]  # the header; and up to the first start, not the epoch


def test_what_a_sampler_raises_reaches_the_search(begin, monkeypatch):
    _, _, journal = begin(SPACE)

    def broken(space, study):
        raise ZeroDivisionError("in the sampler")

    monkeypatch.setattr(proposer, "propose", broken)
    with pytest.raises(ZeroDivisionError, match="in the sampler"):
        journal.next_assignment()


MANY = """
fixed: {train: {max_epochs: 3}}
incumbent: {fusion.num_layers: 1, sequence.num_layers: 1, train.seed: 1}
axes:
  fusion.num_layers: {type: int, low: 1, high: 3}
  sequence.num_layers: {type: int, low: 1, high: 4}
  train.seed: {type: int, low: 1, high: 5}
scheduler: {name: none}
sampler: {name: random}
budget: {trials: 60}
"""


def test_a_space_is_exhausted_only_when_every_combination_has_been_tried(begin):
    _, log, journal = begin(MANY)
    study = run_all(log, journal)
    assert len(study.trials) == 60  # 3 x 4 x 5; drawing alone would give up before


def test_extending_takes_an_exhausted_study_up_again(begin):
    _, log, journal = begin(SPACE)
    journal.next_assignment()
    log.commit("exhausted")
    assert log.study.exhausted
    log.commit("extended", trials=20)
    assert not log.study.exhausted
    assert log.study.wants_proposal


def test_a_trial_that_only_broken_machines_ended_is_no_answer_to_an_equal_proposal(begin):
    space, log, journal = begin(INERT, ["sampler.name=random", "resources.max_retries=0"])
    first = journal.next_assignment()
    assert not journal.setback(first.trial_id, "died", "its worker process died", host="h")
    study = run_all(log, journal)
    keys = [space.canonical(trial.values) for trial in study.trials.values()]
    assert keys.count(keys[0]) == 2
    assert len(study.trials) == 4


def test_files_that_differ_from_their_commit_are_code_of_their_own_at_each_start(begin):
    _, log, journal = begin(SPACE)
    opened = {"pid": 1, "host": "h", "code": "0.1+abc-dirty", "cpus": 1, "gpus": 0, "concurrent": 1}
    log.commit("opened", **opened)
    trial = journal.next_assignment().trial_id
    assert log.study.trials[trial].code == "0.1+abc-dirty#1"
    log.commit("opened", **opened)
    log.commit("started", trial=trial, attempt=2)
    assert log.study.trials[trial].code == "several"


def test_fifty_equal_proposals_in_a_row_end_the_search(begin, monkeypatch):
    _, log, journal = begin(SPACE)
    first = journal.next_assignment()
    values = dict(log.study.trials[first.trial_id].values)

    def always(space, study):
        if study.reused_in_a_row >= 50:
            return propose(space, study)
        return Proposal(values, draws=study.reused_in_a_row + 1, equals=first.trial_id)

    monkeypatch.setattr(proposer, "propose", always)
    assert journal.next_assignment() is None
    assert (len(log.study.reused), log.study.exhausted) == (50, True)
