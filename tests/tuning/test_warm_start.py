import pytest
from fake_search import SPACE, options, quick_runner, write_space

from odmt.errors import StudyChangedError, StudyError
from odmt.tuning.axes import Axis
from odmt.tuning.driver import run_study
from odmt.tuning.event_log import EventLog
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.samplers import make_sampler, rebuilt_study
from odmt.tuning.space import load_space
from odmt.tuning.state import METRIC
from odmt.tuning.warm_start import nearest, warm_records

TEMPERATURE = "distill.temperature: {type: uniform, low: 0.1, high: 1.0}"
OTHER = SPACE.replace(TEMPERATURE, "fusion.dropout: {type: uniform, low: 0, high: 0.5}")
OTHER = OTHER.replace("incumbent: {distill.temperature: 0.5", "incumbent: {fusion.dropout: 0.1")
NARROW = OTHER.replace("train.weight_decay: {type: uniform, low: 0.0", "train.weight_decay: {type: uniform, low: 0.4")
NARROW = NARROW.replace("train.weight_decay: 0.1}", "train.weight_decay: 0.9}")


def searched(home, name, space, values):
    """Leave a study behind whose trials complete with these values."""
    with EventLog(home.study(name)) as log:
        open_study(log, name, space, "data", extend=False)
        journal = Journal(space, log)
        for value in values:
            given = journal.next_assignment()
            report = {"metrics": {METRIC: value}, "checkpoint": None, "seconds": 0.1, "is_last": True}
            journal.report(given.trial_id, {"epoch": 1, **report})
        return log.study


def begun(home, name, space, names, digest="data"):
    log = EventLog(home.study(name))

    def warm():
        return warm_records(home, names, space, digest)

    try:
        open_study(log, name, space, digest, extend=False, warm_start=names, warm=warm)
    except StudyError:
        log.close()
        raise
    return log


@pytest.fixture
def earlier(home, space):
    return searched(home, "earlier", space, [0.3, 0.5, 0.4])


def test_an_equal_space_on_equal_data_gives_evidence(home, space, earlier):
    with begun(home, "later", space, ["earlier"]) as log:
        assert [warm.value for warm in log.study.evidence] == [0.5, 0.4, 0.3]
        assert log.study.queue == []
        told = rebuilt_study(space, log.study, make_sampler(space, 0, 1)).trials
    assert [trial.value for trial in told] == [0.5, 0.4, 0.3]
    assert told[0].params == earlier.trials["t0001"].values


@pytest.mark.parametrize(
    ("text", "digest"), [(SPACE, "other data"), (OTHER, "data")], ids=["other data", "another space"]
)
def test_any_other_study_gives_its_best_configurations_as_proposals(home, tmp_path, earlier, text, digest):
    space = load_space(write_space(tmp_path, text, "other"))
    with begun(home, "later", space, ["earlier"], digest) as log:
        assert log.study.evidence == []
        journal = Journal(space, log)
        trials = [log.study.trials[journal.next_assignment().trial_id] for _ in range(4)]
    sources = ["incumbent", "warm-start earlier/t0001", "warm-start earlier/t0002", "sampler"]
    assert [trial.source for trial in trials] == sources
    decays = [earlier.trials[name].values["train.weight_decay"] for name in ("t0001", "t0002")]
    assert [trial.values["train.weight_decay"] for trial in trials[1:3]] == decays


def test_the_trials_of_a_grid_are_evidence_too(home, tmp_path):
    listed = SPACE.replace("high: 1.0}", "high: 1.0, grid: [0.1, 0.5]}")
    grid = load_space(write_space(tmp_path, listed), ["sampler.name=grid", "sampler.startup_trials=10"])
    searched(home, "grid", grid, [0.3, 0.5, 0.4])
    with begun(home, "later", load_space(write_space(tmp_path, listed)), ["grid"]) as log:
        assert [warm.value for warm in log.study.evidence] == [0.5, 0.4, 0.3]
        assert all(warm.distributions for warm in log.study.evidence)


def test_proposals_of_several_studies_come_by_rank(home, tmp_path, space, earlier):
    second = load_space(str(space.path), ["sampler.seed=9"])
    searched(home, "second", second, [0.1, 0.9, 0.2])
    other = load_space(write_space(tmp_path, OTHER, "other"), ["budget.trials=40"])
    with begun(home, "later", other, ["earlier", "second"]) as log:
        found = [(warm.study, warm.trial) for warm in log.study.queue]
    # The incumbents of both, third in one and last in the other, are this space's incumbent and left out.
    assert found == [("earlier", "t0001"), ("second", "t0001"), ("earlier", "t0002"), ("second", "t0002")]


def test_a_quarter_of_the_budget_at_most_is_proposed(home, tmp_path, space):
    searched(home, "long", space, [0.1 + number / 100 for number in range(8)])
    other = load_space(write_space(tmp_path, OTHER, "other"))
    with begun(home, "later", other, ["long"]) as log:
        assert len(log.study.queue) == 2  # of 8 trials


def test_values_move_to_the_nearest_that_is_possible_and_the_log_says_so(home, tmp_path, space):
    searched(home, "earlier", space, [0.3])
    narrow = load_space(write_space(tmp_path, NARROW, "narrow"))
    with begun(home, "later", narrow, ["earlier"]) as log:
        (record,) = log.study.warmed
    assert record["trials"][0]["values"]["train.weight_decay"] == 0.4
    assert record["trials"][0]["changed"]["train.weight_decay"] == [0.1, 0.4]


@pytest.mark.parametrize(
    ("axis", "value", "found"),
    [
        (Axis("x", "uniform", 0.1, 0.5), 0.7, 0.5),
        (Axis("x", "quniform", 0, 40, 5), 33, 35),
        (Axis("x", "quniform", 0.0, 0.5, 0.05), 0.12, 0.1),
        (Axis("x", "int", 1, 3), 7, 3),
        (Axis("x", "choice", values=(16, 32)), 16, 16),
        (Axis("x", "choice", values=(16, 32)), 48, 32),
        (Axis("x", "int", 1, 3), None, 2),
    ],
)
def test_the_nearest_value_of_an_axis(axis, value, found):
    assert nearest(axis, value, 32 if axis.kind == "choice" else 2) == found


def test_a_study_that_is_missing_or_empty_is_refused_and_leaves_nothing(home, space):
    with pytest.raises(StudyError, match=r"--warm-start: there is no study 'nowhere'; studies: "):
        begun(home, "later", space, ["nowhere"])
    assert (home.study("later") / "events.jsonl").read_bytes() == b""
    searched(home, "empty", space, [])
    with pytest.raises(StudyError, match="study 'empty' has no trial with a value yet"):
        begun(home, "later", space, ["empty"])


def test_wrong_names_leave_no_folder_of_the_new_study(home, space):
    with pytest.raises(StudyError, match="there is no study 'nowhere'"):
        run_study(space, home, "later", options(quick_runner, warm_start=("nowhere",)))
    with pytest.raises(StudyError, match="study 'later' cannot begin with itself"):
        run_study(space, home, "later", options(quick_runner, warm_start=("later",)))
    assert not home.study("later").exists()


def test_another_warm_start_under_the_same_name_is_refused(home, space, earlier):
    with begun(home, "later", space, ["earlier"]) as log:
        Journal(space, log).next_assignment()
    with (
        EventLog(home.study("later")) as log,
        pytest.raises(StudyChangedError, match="--warm-start: was earlier, is none"),
    ):
        open_study(log, "later", space, "data", extend=False)
