import json

import pytest
from fake_search import SPACE, write_space
from optuna.trial import TrialState

from odmt.tuning.event_log import EventLog, read_log
from odmt.tuning.folding import apply
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.samplers import make_sampler, propose, rebuilt_study
from odmt.tuning.space import load_space
from odmt.tuning.state import METRIC, Study

CONDITIONAL = SPACE.replace(
    "axes:",
    "axes:\n  distill.rampup_epochs: {type: quniform, low: 0, high: 20, q: 5, when: {fusion.id_masking: true}}"
    "\n  fusion.id_masking: {type: choice, values: [true, false]}"
    "\n  train.accumulate_batches: {type: logint, low: 1, high: 64}",
).replace(
    "incumbent: {", "incumbent: {fusion.id_masking: true, distill.rampup_epochs: 5, train.accumulate_batches: 16, "
)
SMALL_CHOICE = """
fixed: {train: {max_epochs: 3}}
incumbent: {fusion.id_masking: false, train.seed: 2}
axes:
  fusion.id_masking: {type: choice, values: [true, false]}
  train.seed: {type: int, low: 1, high: 2, when: {fusion.id_masking: false}}
scheduler: {name: none}
"""


def search(space, folder, trials, value_of=lambda values: -values["train.weight_decay"]):
    """Run a study without Ray: each trial to its end before the next is proposed."""
    with EventLog(folder) as log:
        open_study(log, "x", space, "d", extend=False)
        journal = Journal(space, log)
        while len(log.study.trials) < trials and (given := journal.next_assignment()) is not None:
            for epoch in range(1, 7):
                values = log.study.trials[given.trial_id].values
                report = {"epoch": epoch, "metrics": {METRIC: value_of(values)}, "checkpoint": None, "seconds": 0.1}
                if journal.report(given.trial_id, report) != "continue":
                    break
        return log.study


SAMPLERS = {
    "tpe": [],
    "random": ["sampler.startup_trials=10"],
    "gp": [],
    "cmaes": ["sampler.population_size=3"],
    "qmc": ["sampler.startup_trials=10"],
    "nsga2": ["sampler.startup_trials=10", "sampler.population_size=3"],
}


KNOW_NO_CONDITIONS = ("cmaes", "qmc")
CASES = [pytest.param(SPACE, name, id=f"plain-{name}") for name in SAMPLERS] + [
    pytest.param(CONDITIONAL, name, id=f"conditional-{name}") for name in SAMPLERS if name not in KNOW_NO_CONDITIONS
]


@pytest.mark.parametrize(("text", "sampler"), CASES)
def test_every_proposal_can_be_derived_again_from_the_log(tmp_path, sampler, text):
    path = write_space(tmp_path, text)
    space = load_space(path, [f"sampler.name={sampler}", "budget.trials=16", *SAMPLERS[sampler]])
    search(space, tmp_path / "study", 16)
    again = Study()
    proposals = 0
    for line in (tmp_path / "study" / "events.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "proposed":
            derived = propose(space, again)
            assert (derived.values, derived.draws) == (record["values"], record["draws"])
            assert (derived.system_attrs, derived.study_attrs) == (record["system_attrs"], record["study_attrs"])
            proposals += 1
        apply(again, record)
    assert proposals == 16


def test_the_incumbent_comes_first_and_values_lie_in_their_ranges(tmp_path):
    space = load_space(write_space(tmp_path, CONDITIONAL))
    study = search(space, tmp_path / "study", 8)
    trials = list(study.trials.values())
    assert trials[0].values == dict(space.incumbent)
    for trial in trials:
        assert list(trial.values) == space.active_axes(trial.values)
        assert all(space.axes[path].holds(value) for path, value in trial.values.items())
        assert ("distill.rampup_epochs" in trial.values) == trial.values["fusion.id_masking"]
        assert trial.config["train"]["accumulate_batches"] == trial.values["train.accumulate_batches"]
    assert len({space.canonical(trial.values) for trial in trials}) == 8


def test_optuna_is_told_what_became_of_each_trial(tmp_path):
    space = load_space(write_space(tmp_path))
    with EventLog(tmp_path / "study") as log:
        open_study(log, "x", space, "d", extend=False)
        journal = Journal(space, log)
        ids = [journal.next_assignment().trial_id for _ in range(4)]

        def tell(trial_id, epoch, value):
            report = {"epoch": epoch, "metrics": {METRIC: value}, "checkpoint": None, "seconds": 0.1}
            return journal.report(trial_id, report)

        for epoch in range(1, 7):
            tell(ids[0], epoch, epoch / 10)
        assert [tell(ids[1], 1, 0.3), tell(ids[1], 2, 0.1)] == ["continue", "stop"]
        assert tell(ids[2], 1, float("nan")) == "fail"
        told = rebuilt_study(space, log.study, make_sampler(space, 4, 1)).trials
    assert [trial.state for trial in told] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert [trial.number for trial in told] == [0, 1, 2, 3]
    assert told[1].intermediate_values == {1: 0.3, 2: 0.1}
    assert (told[0].value, told[1].value, told[2].value) == (0.6, 0.3, None)


@pytest.mark.parametrize("sampler", ["grid", "tpe", "random"])
def test_a_small_space_is_exhausted_without_a_repetition(tmp_path, sampler):
    space = load_space(write_space(tmp_path, SMALL_CHOICE), [f"sampler.name={sampler}"])
    study = search(space, tmp_path / "study", 100, value_of=lambda values: 0.5)
    tried = [dict(trial.values) for trial in study.trials.values()]
    assert tried[0] == {"fusion.id_masking": False, "train.seed": 2}
    rest = [{"fusion.id_masking": True}, {"fusion.id_masking": False, "train.seed": 1}]
    assert sorted(tried[1:], key=len) == rest
    assert study.exhausted
    assert study.finished
    if sampler == "grid":
        assert tried[1:] == rest


def test_the_better_values_are_searched_more_closely_by_tpe(tmp_path):
    space = load_space(write_space(tmp_path), ["scheduler.name=none", "budget.trials=30"])
    study = search(space, tmp_path / "study", 30)
    late = [trial.values["train.weight_decay"] for trial in list(study.trials.values())[15:]]
    assert sum(late) / len(late) < 0.3  # random would give 0.5


def test_reports_that_are_recorded_already_change_nothing(tmp_path):
    space = load_space(write_space(tmp_path))
    report = {"metrics": {METRIC: 0.5}, "checkpoint": None, "seconds": 0.1}
    with EventLog(tmp_path / "study") as log:
        open_study(log, "x", space, "d", extend=False)
        journal = Journal(space, log)
        trial = journal.next_assignment().trial_id
        journal.report(trial, {"epoch": 1, **report})
        journal.report(trial, {"epoch": 2, **report})
    with EventLog(tmp_path / "study") as log:
        journal = Journal(space, log)
        again = journal.next_assignment()
        assert (again.trial_id, again.attempt) == (trial, 2)
        size = log.path.stat().st_size
        replayed = [journal.report(trial, {"epoch": epoch, "replayed": True, **report}) for epoch in (1, 2)]
        assert replayed == ["continue"] * 2
        assert log.path.stat().st_size == size
        journal.report(trial, {"epoch": 3, **report})
        assert journal.next_assignment().trial_id == "t0001"
        assert not journal.setback("t0001", "error", "gone")
        assert not journal.setback("t0001", "error", "gone again")
    study = read_log(tmp_path / "study" / "events.jsonl")
    assert len(study.trials[trial].epochs) == 3
    assert (study.trials["t0001"].state, study.trials["t0001"].reason) == ("failed", "gone")


@pytest.fixture
def begun(tmp_path):
    """A study's log and journal with one trial begun, and a function that reports an epoch of it."""
    space = load_space(write_space(tmp_path))
    with EventLog(tmp_path / "study") as log:
        open_study(log, "x", space, "d", extend=False)
        journal = Journal(space, log)
        trial = journal.next_assignment().trial_id

        def report(epoch, **more):
            metrics = {"metrics": {METRIC: 0.5}, "checkpoint": None, "seconds": 0.1}
            return journal.report(trial, {"epoch": epoch, **metrics, **more})

        yield log, trial, report


def test_a_trial_that_ends_by_itself_is_complete(begun):
    log, trial, report = begun
    assert report(1) == "continue"
    assert report(2, is_last=True) == "complete"
    assert log.study.trials[trial].state == "completed"


def test_a_resumed_trial_that_ends_no_later_than_what_is_recorded_is_complete_too(begun):
    log, trial, report = begun
    assert [report(1), report(2), report(1)] == ["continue"] * 3
    assert report(2, is_last=True) == "complete"
    study = read_log(log.path)
    assert (study.trials[trial].state, len(study.trials[trial].epochs)) == ("completed", 2)
