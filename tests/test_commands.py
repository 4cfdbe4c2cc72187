import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import CHECKOUT

from odmt import errors
from odmt.commands import Parser, meter, progress, run
from odmt.home import Home, code_version


def outcome(body, argv=()):
    parser = Parser("A command.")
    parser.add_argument("--known")
    return run(parser, body, list(argv))


def raising(error):
    def body(_):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.OdmtError("x"), 1),
        (errors.ConfigError("x.yaml", ["a: is wrong"]), 2),
        (errors.StudyLockedError("x"), 2),
        (errors.DataError("x"), 3),
        (errors.GateError("x"), 4),
        (errors.ServiceError("x"), 5),
        (errors.InterruptedStudy("x"), 130),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (NotADirectoryError(20, "Not a directory", "/x/y"), 3),
        (RuntimeError("x"), 1),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error, code, capsys):
    assert outcome(raising(error)) == code
    assert capsys.readouterr().out == ""


def test_an_error_of_ours_is_one_line_without_a_traceback(capsys):
    outcome(raising(errors.DataError("file:3: no TAB")))
    assert capsys.readouterr().err == "error: file:3: no TAB\n"


def test_a_path_that_cannot_be_used_is_named_without_a_traceback(capsys):
    outcome(raising(PermissionError(13, "Permission denied", "/x/y")))
    assert capsys.readouterr().err == "error: /x/y: Permission denied; check the path and its permissions\n"


def test_a_full_disk_is_told_in_one_sentence(capsys):
    assert outcome(raising(OSError(28, "No space left on device"))) == 3
    assert capsys.readouterr().err == "error: No space left on device; make room, and run the same command again\n"


def test_a_path_that_is_no_text_is_told_all_the_same(tmp_path):
    script = (
        "import sys; from odmt.commands import Parser, run; from odmt.errors import DataError\n"
        "def body(arguments): raise DataError(sys.argv[1] + ': is wrong')\n"
        "sys.exit(run(Parser('x'), body, []))"
    )
    ended = subprocess.run([sys.executable, "-c", script, b"/x/\xff"], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (3, b"error: /x/\\udcff: is wrong\n")


def test_sigterm_ends_like_ctrl_c_with_the_command_to_go_on(capsys):
    def terminate(_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert outcome(terminate, ["--known", "1"]) == 130
    assert capsys.readouterr().err == "interrupted; go on with: --known 1\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_bug_shows_its_traceback(capsys):
    outcome(raising(RuntimeError("bug")))
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--unknown"], ["--kno", "1"], ["word"]])
def test_an_unknown_flag_or_an_abbreviation_ends_with_2(argv, capsys):
    assert outcome(lambda _: 0, argv) == 2
    assert "error:" in capsys.readouterr().err


def test_help_ends_with_0(capsys):
    assert outcome(lambda _: 7, ["--help"]) == 0
    assert "A command." in capsys.readouterr().out


def test_progress_without_a_terminal_is_plain_lines_for_each_quarter(capsys, monkeypatch):
    monkeypatch.setattr("time.monotonic", iter(range(0, 30, 3)).__next__)
    assert list(progress(range(8), 8, "images")) == list(range(8))
    assert capsys.readouterr().err.splitlines() == [
        "images: 2 of 8, about 18 s left",
        "images: 4 of 8, about 12 s left",
        "images: 6 of 8, about 6 s left",
        "images: 8 of 8, about 0 s left",
    ]


def test_progress_of_short_work_says_nothing_without_a_terminal(capsys):
    assert list(progress(range(8), 8, "images")) == list(range(8))
    assert capsys.readouterr().err == ""


def test_progress_of_long_work_says_something_every_minute_also_in_bytes(capsys, monkeypatch):
    monkeypatch.setattr("time.monotonic", iter([0, 50, 61, 130, 140]).__next__)
    with meter("reading", 10**6, in_bytes=True) as tell:
        for done in (10_000, 20_000, 30_000, 31_000):
            tell(done)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2 %, about 50 min left",
        "reading: 3 %, about 70 min left",
    ]


def test_the_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home.from_environment()
    assert home.dataset("arts") == tmp_path / "data" / "arts"
    assert home.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.delenv("ODMT_HOME")
    assert Home.from_environment().root == CHECKOUT / "var"


def test_the_code_version_starts_with_the_packages():
    assert code_version().startswith("0.")


HEAVY = ("torch", "ray", "mlflow", "optuna", "transformers", "pandas", "pyarrow", "plotly")


@pytest.mark.parametrize("script", sorted(path.name for path in (CHECKOUT / "launch").glob("*.py")))
def test_help_imports_nothing_heavy(script):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}', '--help']\n"
        "try: runpy.run_path('launch/' + sys.argv[0], run_name='__main__')\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("HEAVY []\n")


@pytest.mark.parametrize("script", ["train", "tune"])
def test_a_bad_space_is_refused_before_anything_heavy_is_imported(script, tmp_path):
    space = tmp_path / "bad.yaml"
    space.write_text("fixed:\n  train:\n    max_epoch: 3\n")
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}.py', '--space', {str(space)!r}]\n"
        f"try: runpy.run_path('launch/{script}.py', run_name='__main__')\n"
        "except SystemExit as leaving: print('CODE', leaving.code)\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert ended.stdout == "CODE 2\nHEAVY []\n"
    assert "max_epoch: unknown key; did you mean max_epochs?" in ended.stderr


@pytest.mark.parametrize("script", ["train", "tune"])
@pytest.mark.parametrize("space", ["arts", "office", "hm", "stream"])
def test_a_space_without_its_data_ends_with_3_and_names_the_command(
    script, space, launch, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path / "home"))
    assert launch(script)(["--space", space]) == 3
    assert f"python launch/prepare.py --dataset {space} --source DIR" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "home")
