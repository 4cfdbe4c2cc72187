"""The command: files, exit codes, MLflow present and away."""

import json

import pytest
from report_study import NAME, MadeStudy, gru, sasrec

from odmt.errors import ServiceError
from odmt.home import Home


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    return Home.from_environment()


@pytest.fixture
def study(home):
    made = MadeStudy(trials=2)
    made.completed(sasrec(), [0.1, 0.2, 0.3, 0.4])
    made.stopped(gru(), [0.2])
    return made.write(home)


@pytest.fixture
def away(monkeypatch):
    """MLflow that refuses at once."""
    from odmt.tracking import report_files

    def refuse(home):
        raise ServiceError("MLflow at http://127.0.0.1:9 cannot be reached: refused; start it")

    monkeypatch.setattr(report_files, "connect", refuse)


def test_without_mlflow_the_report_is_written_and_a_warning_says_so(launch, home, study, away, capsys):
    assert launch("report")([NAME]) == 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith("warning: MLflow at http://127.0.0.1:9 cannot be reached: refused")
    assert "study made: 2 trials: 1 completed, 1 stopped\n" in told.out
    assert (home.study(NAME) / "report" / "index.html").stat().st_size > 1_000_000


def test_out_names_the_folder_and_json_prints_the_summary_alone(launch, home, study, away, tmp_path, capsys):
    assert launch("report")([NAME, "--out", str(tmp_path / "there"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["files"][0] == str(tmp_path / "there" / "index.html")
    assert summary["standing"] == "finished"
    assert not (home.study(NAME) / "report").exists()


def test_an_unknown_study_ends_with_2_and_one_sentence(launch, home, study, capsys):
    assert launch("report")(["other"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "there is no study 'other'" in told
    assert "studies: made" in told


@pytest.mark.parametrize("name", ["../studies/made", "a/b", "..", ".hidden", ""])
@pytest.mark.parametrize("command", ["report", "promote"])
def test_a_name_that_is_no_folder_among_the_studies_is_refused(launch, home, study, command, name, capsys):
    assert launch(command)([name]) == 2
    assert capsys.readouterr().err == f"error: {name!r} is no name of a study; studies: made\n"


def test_a_damaged_log_ends_with_2_and_names_the_line(launch, home, study, capsys):
    lines = study.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"t0000", b"t0009")
    study.write_bytes(b"\n".join(lines))
    assert launch("report")([NAME]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "events.jsonl:3: damaged event log: its checksum does not match" in told


def test_a_torn_last_line_is_left_out(launch, home, study, away, capsys):
    study.write_bytes(study.read_bytes()[:-9])
    assert launch("report")([NAME]) == 0
    assert "1 completed, 1 interrupted; the study is interrupted" in capsys.readouterr().out


@pytest.mark.parametrize("below", ["file", "file/report"])
def test_a_place_that_cannot_be_written_to_is_one_sentence(launch, home, study, tmp_path, below, capsys):
    (tmp_path / "file").write_text("kept")
    assert launch("report")([NAME, "--out", str(tmp_path / below)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"error: {tmp_path / below}: cannot be written to: ")
    assert told.endswith("; give --out a place that can\n")
    assert (tmp_path / "file").read_text() == "kept"
