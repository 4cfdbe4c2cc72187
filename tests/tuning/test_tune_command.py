"""What launch/tune.py makes of its flags, and what it says at the end."""

import functools
import json
from types import SimpleNamespace

import pytest
from ended_study import study_with_trials
from fake_search import SOURCE, SPACE, write_space

from odmt.errors import InterruptedStudy, MissingDataError
from odmt.home import Home
from odmt.tuning import driver
from odmt.tuning.event_log import EventLog
from odmt.tuning.flags import hours, warm_names
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.plan import read_plan
from odmt.tuning.planning import Asked
from odmt.tuning.preflight import Inputs
from odmt.tuning.space import load_space

UNITS = {"s": 1 / 3600, "m": 1 / 60, "h": 1.0, "d": 24.0, "": 1.0}


@pytest.fixture
def tune(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("odmt.tuning.planning.Asked", functools.partial(Asked, source=SOURCE))
    path = write_space(tmp_path)
    main = launch("tune")
    return lambda *words: main(["--space", path, *words])


@pytest.mark.parametrize(
    ("text", "expected"), [("90m", 1.5), ("8h", 8.0), ("2d", 48.0), ("3600s", 1.0), ("8", 8.0), (".5", 0.5)]
)
def test_a_time_is_read_in_its_unit_and_a_bare_number_is_hours(text, expected):
    assert hours("--time-budget", text, UNITS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--time-budget", "0"], "error: --time-budget: '0' is not above 0"),
        (["--time-budget=-2h"], "error: --time-budget: '-2h' is not above 0"),
        (
            ["--time-budget", "soon"],
            "error: --time-budget: expected a time such as 90m, 8h, 2d, 3600s or 8, got 'soon'",
        ),
        (["--time-budget", "2w"], "expected a time such as 90m, 8h, 2d, 3600s or 8, got '2w'"),
        (["--time-budget", "nan"], "expected a time such as 90m, 8h, 2d, 3600s or 8, got 'nan'"),
        (["--max-gpu-hours", "0"], "error: --max-gpu-hours: '0' is not above 0"),
        (["--max-gpu-hours=-1.5"], "error: --max-gpu-hours: '-1.5' is not above 0"),
        (["--max-gpu-hours", "8h"], "error: --max-gpu-hours: expected a number of hours such as 40, got '8h'"),
        (["--trials", "0"], "budget.trials: 0 is below 1"),
        (["--trials=-3"], "budget.trials: -3 is below 1"),
        (["--probe"], "error: --probe: times the plan of --dry-run; add --dry-run, or leave it out"),
        (["--json", "--dry-run"], "error: --json: tells what a search does; --dry-run does nothing"),
        (["--warm-start", "a,,b"], "error: --warm-start: expected different studies such as arts,office, got 'a,,b'"),
        (["--warm-start", "a,a"], "error: --warm-start: expected different studies such as arts,office, got 'a,a'"),
        (["--study", "a/b"], "error: --study: 'a/b' is not a folder name"),
        (["--study", "a/b", "--dry-run"], "error: --study: 'a/b' is not a folder name"),
        (["--set", "train.max_epoch=3"], "did you mean max_epochs?"),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_exit_code_2(tune, words, sentence, capsys, tmp_path):
    assert tune(*words) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (tmp_path / "home").exists()


def test_a_space_that_is_not_there_is_exit_code_2(launch, capsys):
    assert launch("tune")(["--space", "nowhere"]) == 2
    assert "shipped spaces: arts, demo" in capsys.readouterr().err


def test_missing_data_names_the_command_that_prepares_it(launch, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path / "home"))
    for words in ([], ["--dry-run"]):
        assert launch("tune")(["--space", write_space(tmp_path), *words]) == MissingDataError.exit_code == 3
        assert "python launch/prepare.py --dataset demo" in capsys.readouterr().err
    assert not (tmp_path / "home" / "studies").exists()


def test_the_flags_reach_the_study(tune, monkeypatch):
    seen = {}

    def interrupted(space, home, name, options):
        seen.update(space=space, options=options)
        raise InterruptedStudy("stopped")

    monkeypatch.setattr(driver, "run_study", interrupted)
    words = ["--time-budget", "90m", "--max-gpu-hours", "40", "--warm-start", "arts, office", "--extend"]
    assert tune(*words) == 130
    budget = seen["space"].budget
    assert (budget.trials, budget.time_hours, budget.max_gpu_hours) == (8, 1.5, 40.0)
    assert seen["options"].warm_start == ("arts", "office")
    assert seen["options"].extend


def test_an_interruption_names_the_exact_command(tune, monkeypatch, capsys):
    def interrupted(space, home, name, options):
        raise InterruptedStudy(f"go on with: {options.command}")

    monkeypatch.setattr(driver, "run_study", interrupted)
    assert tune("--set", "train.seed=2", "--time-budget", "2 h") == 130
    said = capsys.readouterr().err
    assert "go on with: python launch/tune.py --space " in said
    assert "--set train.seed=2 --time-budget '2 h'" in said


def test_a_second_signal_is_told_like_the_first(tune, monkeypatch, capsys):
    def killed(space, home, name, options):
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "run_study", killed)
    assert tune() == 130
    assert "interrupted; go on with: python launch/tune.py --space " in capsys.readouterr().err


def test_the_end_tells_mlflows_standing_and_the_runs_page(tune, monkeypatch, capsys):
    mirror = SimpleNamespace(start=lambda: None, standing="MLflow at http://h: up to date", run_page="http://h/#/x")
    monkeypatch.setattr("odmt.tracking.runs.RunMirror", lambda *words, **named: mirror)

    def interrupted(space, home, name, options):
        options.make_mirror({"dataset": "demo", "study_id": "s", "data_digest": "d"})
        raise InterruptedStudy("stopped")

    monkeypatch.setattr(driver, "run_study", interrupted)
    assert tune() == 130
    assert capsys.readouterr().out.splitlines()[-2:] == [mirror.standing, "run: http://h/#/x"]


def test_json_alone_is_on_standard_output(tune, monkeypatch, capsys):
    def interrupted(space, home, name, options):
        options.say("a sentence")
        print("a library's line")
        raise InterruptedStudy("stopped")

    monkeypatch.setattr(driver, "run_study", interrupted)
    assert tune("--json") == 130
    said = capsys.readouterr()
    assert [json.loads(line)["event"] for line in said.out.splitlines()] == ["interrupted"]
    assert "a sentence" in said.err


def test_the_first_plan_is_kept_and_another_one_where_a_budget_is_really_raised(tune, monkeypatch, tmp_path):
    def started(space, home, name, options):
        with EventLog(home.study(name)) as log:
            open_study(log, name, space, "fake-data", extend=options.extend)
            options.opened(home.study(name), Inputs("fake-data", 1_000_000, []))
            if not log.study.trials:
                Journal(space, log).next_assignment()
        raise InterruptedStudy("stopped")

    def trials(name):
        return json.loads((folder / name).read_text())["trials"]

    monkeypatch.setattr(driver, "run_study", started)
    folder = tmp_path / "home" / "studies" / "small"
    tune()
    tune("--extend")
    assert trials("plan.json") == 8
    assert not (folder / "plan-extended.json").exists()
    tune("--trials", "9", "--extend")
    (folder / "plan.json").write_text('{"trials": 7}')
    tune("--trials", "9", "--extend")
    assert (trials("plan.json"), trials("plan-extended.json"), read_plan(folder)["trials"]) == (7, 9, 9)


def test_the_plan_is_printed_and_nothing_is_begun(tune, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(driver, "connect", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow.example.org:5000")
    assert tune("--dry-run", "--study", "new") == 0
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err
    words = " ".join(said.out.split())
    assert "study new axes 2; no end of combinations" in words
    assert "distill.temperature uniform 0.1 to 1 0.5" in words
    assert "epoch 2: 8 trials, epoch 4: 4 trials, epoch 6: 2 trials" in words
    assert "http://mlflow.example.org:5000" in words
    assert "unknown: add --probe" in words
    assert not (tmp_path / "home").exists()


def test_a_plan_with_a_probe_says_how_long_it_takes(tune, monkeypatch, capsys, tmp_path):
    from small_arrays import small_arrays

    monkeypatch.setattr("odmt.experiment.arrays.load_arrays", lambda home, config: small_arrays())
    assert tune("--dry-run", "--probe") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "probe smallest (" in words
    assert "s an epoch: measured now on cpu, halfway between the smallest and the largest" in words
    assert "peak memory" in words
    assert not (tmp_path / "home").exists()


def test_the_plan_says_what_would_become_of_the_name(tune, capsys, tmp_path):
    study_with_trials(Home(tmp_path / "home"), load_space(write_space(tmp_path)), 0.5, 0.6)
    for words, expected in [
        ([], "study would go on: 2 of 8 trials have ended, 0 go on from their checkpoints"),
        (["--trials", "9", "--extend"], "study would go on, its budget raised: 2 of 9 trials have ended"),
        (["--warm-start", "small", "--study", "y"], "study new; begins with 2 trials of small as evidence"),
    ]:
        assert tune("--dry-run", *words) == 0
        assert expected in " ".join(capsys.readouterr().out.split())


def test_the_plan_of_a_search_that_would_be_refused_is_shown_and_then_refused(tune, capsys, tmp_path):
    study_with_trials(Home(tmp_path / "home"), load_space(write_space(tmp_path)), 0.5, 0.6)
    for words, code, expected in [
        (["--set", "train.batch_size=4"], 2, "study 'small' was made otherwise"),
        (["--warm-start", "nowhere", "--study", "y"], 2, "--warm-start: there is no study 'nowhere'"),
    ]:
        assert tune("--dry-run", *words) == code
        told = capsys.readouterr()
        assert f"study would be refused: {expected}" in " ".join(told.out.split())
        assert told.err.startswith(f"error: {expected}")


def test_the_pace_of_an_earlier_study_on_the_same_data_gives_the_hours(tune, capsys, tmp_path):
    study_with_trials(Home(tmp_path / "home"), load_space(write_space(tmp_path)), 0.5)
    assert tune("--dry-run", "--study", "other", "--set", "resources.max_concurrent_trials=1") == 0
    words = " ".join(capsys.readouterr().out.split())
    # 8 trials x 2 epochs + 4 x 2 + 2 x 2 = 28 epochs of 30 s, one after the other
    assert "30 s an epoch: median of 6 epochs of study small" in words
    assert "about 14 min 00 s, 0.233 CPU hours" in words


def test_a_finished_study_would_only_be_printed(tune, capsys, tmp_path):
    path = write_space(tmp_path, SPACE.replace("trials: 8", "trials: 1"))
    study_with_trials(Home(tmp_path / "home"), load_space(path), 0.5)
    assert tune("--dry-run") == 0
    assert "has finished (1 of 1 trials have ended); it would only be printed" in " ".join(
        capsys.readouterr().out.split()
    )


def test_names_of_earlier_studies_are_parted_by_commas():
    assert warm_names(None) == ()
    assert warm_names("arts, office") == ("arts", "office")
