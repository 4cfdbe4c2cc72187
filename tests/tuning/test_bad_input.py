"""Whatever is wrong with a space, a budget, a name or a place: one clear sentence, exit code 2, nothing left behind."""

import os

import pytest
from fake_search import SPACE, options, quick_runner, write_space

from odmt.errors import ConfigError, EventLogError
from odmt.home import Home
from odmt.tuning.driver import run_study
from odmt.tuning.event_log import EventLog
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.space import load_space

AXIS = "train.weight_decay: {type: uniform, low: 0.0, high: 1.0}"
NESTED = "a: " + "[" * 5000 + "]" * 5000
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"
SPACES = {
    "unknown path": (SPACE.replace("train.weight_decay", "train.wait_decay"), "unknown key; did you mean"),
    "low above high": (SPACE.replace("low: 0.0, high: 1.0", "low: 2.0, high: 1.0"), "low 2.0 is not below high 1.0"),
    "log of zero": (
        SPACE.replace(AXIS, AXIS.replace("uniform", "loguniform")),
        "0.0 is not above 0, which",
    ),
    "empty choice": (SPACE.replace(AXIS, "train.weight_decay: {type: choice, values: []}"), "at least one value"),
    "wrong type": (SPACE.replace("batch_size: 8", "batch_size: eight"), "train.batch_size: expected a whole number"),
    "repeated key": (SPACE + "budget: {trials: 3}\n", "key 'budget' is repeated"),
    "an alias bomb": (BOMB, "aliases are not allowed"),
    "nesting without end": (NESTED, "is not YAML"),
    "a tab": (SPACE.replace("  data:", "\tdata:"), "cannot start any token"),
    "a list": ("- 1\n- 2\n", "expected a mapping at the top level"),
    "nothing": ("", "expected a mapping at the top level, got"),
    "two documents": ("a: 1\n---\nb: 2\n", "found another document"),
    "a Python object": ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
    "an unknown objective": (SPACE + "objectives: {valid/ndgc_at_10: max}\n", "did you mean valid/ndcg_at_10?"),
    "an objective without a way": (SPACE + "objectives: {cost/parameters: low}\n", "expected max or min, got 'low'"),
    "a minimised metric": (SPACE + "objectives: {valid/ndcg_at_10: min}\n", "is maximised; the best trial is"),
    "two objectives under asha": (SPACE + "objectives: {cost/parameters: min}\n", "holes in the front"),
    "another sampler's setting": (SPACE.replace("seed: 3", "seed: 3, sigma: 0.2"), "sampler tpe has no sigma"),
    "an unknown sampler": (SPACE.replace("seed: 3", "name: bohb"), "sampler.name: expected one of tpe, random, grid"),
    "a bracket without a rung": (SPACE.replace("grace_period: 2", "grace_period: 2, brackets: 3"), "has no rung below"),
    "hours below zero": (
        SPACE.replace("trials: 8", "trials: 8, time_hours: -1"),
        "time_hours: -1.0 is not above",
    ),
    "no trials": (SPACE.replace("trials: 8", "trials: 0"), "budget.trials: 0 is below 1"),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_malformed_space_is_refused_in_one_sentence(launch, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path / "home"))
    text, words = SPACES[name]
    assert launch("tune")(["--space", write_space(tmp_path, text)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert words in told
    assert "Traceback" not in told
    assert not (tmp_path / "home").exists()


def test_cma_es_refuses_choices_and_conditions(tmp_path):
    choice = SPACE.replace(AXIS, AXIS + "\n  fusion.id_masking: {type: choice, values: [true, false]}")
    choice = choice.replace("incumbent: {", "incumbent: {fusion.id_masking: true, ").replace("seed: 3", "name: cmaes")
    with pytest.raises(ConfigError, match=r"axes.fusion.id_masking: sampler cmaes knows no choice; use a range"):
        load_space(write_space(tmp_path, choice))
    conditional = choice.replace("high: 1.0}\n  fusion", "high: 1.0, when: {fusion.id_masking: true}}\n  fusion")
    with pytest.raises(ConfigError, match=r"axes.train.weight_decay.when: sampler qmc knows no conditional axes"):
        load_space(write_space(tmp_path, conditional), ["sampler.name=qmc", "sampler.startup_trials=10"])


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", ""])
def test_a_study_name_that_is_no_folder_is_refused(space, home, name):
    with pytest.raises(ConfigError, match=r"--study: .* is not a folder name") as caught:
        run_study(space, home, name, options(quick_runner))
    assert caught.value.exit_code == 2


@pytest.fixture
def locked(tmp_path):
    """A folder that this process may not write to, though it may be root's."""
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:
        os.chown(place, 65534, 65534)
        for parent in place.parents[:4]:
            parent.chmod(parent.stat().st_mode | 0o011)
        os.seteuid(65534)
    yield place
    os.seteuid(user)


def test_a_place_that_cannot_be_written_to_is_refused(space, locked):
    with pytest.raises(ConfigError, match=r"cannot be written to: Permission denied; set ODMT_HOME") as caught:
        run_study(space, Home(locked), "x", options(quick_runner))
    assert caught.value.exit_code == 2


def test_a_place_that_cannot_be_written_to_is_exit_2_of_the_command(launch, space, locked, monkeypatch, capsys):
    monkeypatch.setenv("ODMT_HOME", str(locked / "home"))
    assert launch("tune")(["--space", str(space.path)]) == 2
    assert "cannot be written to: Permission denied; set ODMT_HOME to a place that can" in capsys.readouterr().err


def test_a_place_under_a_file_is_refused(space, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written to: Not a directory"):
        run_study(space, Home(tmp_path / "file"), "x", options(quick_runner))


def test_a_log_damaged_in_the_middle_is_refused_with_its_line_and_kept(space, home):
    with EventLog(home.study("x")) as log:
        open_study(log, "x", space, "fake-data", extend=False)
        Journal(space, log).next_assignment()
    content = log.path.read_bytes()
    lines = content.split(b"\n")
    lines[1] = lines[1].replace(b"incumbent", b"incumbemt")
    log.path.write_bytes(b"\n".join(lines))
    with pytest.raises(
        EventLogError, match=r"events.jsonl:2: damaged event log: its checksum does not match"
    ) as caught:
        run_study(space, home, "x", options(quick_runner))
    assert caught.value.exit_code == 2
    assert log.path.read_bytes() == b"\n".join(lines)
