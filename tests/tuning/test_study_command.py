"""launch/study.py through its ``main``, on logs made without Ray."""

import json
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from conftest import CHECKOUT
from fake_search import write_space
from made_study import Search, records_of, write
from processes import surviving

from odmt.tuning.event_log import is_owned
from odmt.tuning.space import load_space

OWNER = """
import os, signal, socket, sys, time
from pathlib import Path
from odmt.tuning.event_log import EventLog
folder, host, deaf = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "deaf"
with EventLog(folder) as log:
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    log.commit("opened", pid=os.getpid(), host=host, code="c", cpus=1, gpus=0, concurrent=2, command="go on so")
    print("ready", flush=True)
    while deaf or not told:
        time.sleep(0.02)
"""


@pytest.fixture
def study(launch, home, tmp_path, monkeypatch):
    """The command's ``main``, with ODMT_HOME set."""
    monkeypatch.setenv("ODMT_HOME", str(home.root))
    return launch("study")


@pytest.fixture
def make(home, tmp_path):
    """A function that leaves a study behind after so many reports."""

    def made(name, reports=1000, **opened):
        space = load_space(write_space(tmp_path), ["scheduler.name=none"] if reports == 1000 else [])
        return Search(home.study(name), space, **opened).start(reports)

    return made


@pytest.fixture
def own(home):
    """A function that starts a process which owns a study until SIGTERM."""
    started = []

    def owned(name, host=None, deaf=False):
        command = [sys.executable, "-c", OWNER, str(home.study(name)), host or socket.gethostname()]
        process = subprocess.Popen([*command, "deaf" if deaf else "hears"], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield owned
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_list_has_every_study_with_its_state_and_the_damaged_one_does_not_hide_the_others(
    study, make, home, own, capsys
):
    make("done")
    make("halfway", 8)
    damaged = make("damaged", 8)
    damaged.write_bytes(damaged.read_bytes().replace(b'"epoch":1', b'"epoch":7', 1))
    make("going", 8)
    own("going")
    (home.study("going") / "trials" / "t0000").mkdir(parents=True)
    (home.study("going") / "trials" / "t0000" / "weights").write_bytes(bytes(123_456))
    assert study(["list", "--json"]) == 0
    rows = {row["study"]: row for row in json.loads(capsys.readouterr().out)}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"done": "finished", "halfway": "interrupted", "damaged": "damaged", "going": "running"}
    assert (rows["done"]["ended"], rows["done"]["budget"], rows["done"]["dataset"]) == (8, 8, "demo")
    assert "damaged event log: its checksum does not match" in rows["damaged"]["why"]
    assert rows["going"]["checkpoint_bytes"] == 123_456
    assert rows["done"]["log_bytes"] == (home.study("done") / "events.jsonl").stat().st_size
    assert study(["list"]) == 0
    shown = capsys.readouterr().out
    assert f"running ({rows['going']['pid']})" in shown
    assert f"{rows['done']['best']:.4f} ({rows['done']['best_trial']})" in shown
    assert "damaged: " in shown
    assert "0.1 MB" in shown


def test_the_best_so_far_counts_before_it_has_an_outcome_and_says_so(study, make, capsys):
    make("begun", 1)
    assert study(["list"]) == 0
    assert "(t0001, no outcome yet)" in " ".join(capsys.readouterr().out.split())
    assert study(["status", "begun"]) == 0
    assert " in t0001 (no outcome yet), epoch 1: " in capsys.readouterr().out


def test_a_budget_that_was_met_and_a_tainted_study_are_told(study, make, capsys):
    for name, record in {
        "met": {"kind": "limit", "what": "time", "used": 1.0, "allowed": 1.0},
        "tainted": {"kind": "tainted", "reason": "row 3 was written to"},
    }.items():
        path = make(name, 8, command="go on so")
        records = records_of(path)
        write(path, [*records, {"time": records[-1]["time"], **record}])
    assert study(["list"]) == 0
    shown = capsys.readouterr().out
    assert "budget met" in shown
    assert study(["status", "met"]) == 0
    assert "go on with --extend and a larger budget: go on so" in capsys.readouterr().out
    assert "tainted: row 3 was written to" in shown


def test_no_study_yet_names_the_command_that_makes_one(study, capsys):
    assert study(["list"]) == 0
    assert "none yet; make one: python launch/tune.py --space demo" in capsys.readouterr().out
    assert study(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_status_tells_counts_rungs_budgets_and_what_goes_on(study, make, capsys):
    path = make("halfway", 25, command="python launch/tune.py --space small --set train.seed=2")
    ended = [record for record in records_of(path) if record.get("verdict", "continue") != "continue"]
    at_two = [record for record in records_of(path) if record.get("epoch") == 2]
    assert study(["status", "halfway", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["ended"], found["budget"]) == ("interrupted", len(ended), 8)
    assert sum(found["counts"].values()) == found["proposed"]
    stopped = sum(record["verdict"] == "stop" for record in at_two)
    assert found["rungs"][0] == {"bracket": 0, "epoch": 2, "reached": len(at_two), "stopped": stopped}
    assert found["budgets"]["trials"] == {"used": found["proposed"], "allowed": 8, "left": 8 - found["proposed"]}
    assert found["budgets"]["hours"]["allowed"] is None
    assert found["owner"] is None
    assert study(["status", "halfway"]) == 0
    shown = capsys.readouterr().out
    assert f"trials: {len(ended)} of 8 have ended" in shown
    assert f"trials begun: {found['proposed']} of 8, " in shown
    assert f"best: {found['best']['value']:.4f} in {found['best']['trial']}" in shown
    assert f"rung at epoch 2: {len(at_two)} trials, {stopped} stopped there" in shown
    assert "go on with: python launch/tune.py --space small --set train.seed=2" in shown
    assert all(f"{one['trial']}: epoch {one['epochs']} of 6" in shown for one in found["running"])


def test_status_tells_who_runs_a_study(study, make, own, capsys):
    make("going", 8)
    process = own("going")
    assert study(["status", "going"]) == 0
    shown = capsys.readouterr().out
    assert f"running by process {process.pid} on {socket.gethostname()} since 2" in shown
    assert "go on with" not in shown


def test_stop_asks_the_owner_to_end_and_waits_until_it_has(study, make, own, home, capsys):
    make("going", 8)
    process = own("going")
    assert study(["stop", "going"]) == 0
    assert not is_owned(home.study("going"))
    assert process.wait(10) == 0
    shown = capsys.readouterr().out
    assert f"process {process.pid} is asked to end" in shown
    assert "study going is stopped: interrupted, " in shown
    assert "go on with: go on so" in shown
    assert study(["stop", "going"]) == 0
    assert "study going is not running: interrupted" in capsys.readouterr().out


def test_stop_says_when_the_owner_does_not_end_in_time(study, make, own, capsys):
    make("going", 8)
    own("going", deaf=True)
    assert study(["stop", "going", "--timeout", "0.3"]) == 2
    assert "has not within 0.3 s" in capsys.readouterr().err
    assert study(["stop", "going", "--timeout", "0"]) == 2
    assert "--timeout: 0 is not a number of seconds above 0" in capsys.readouterr().err


def test_stop_leaves_a_study_of_another_host_alone(study, make, own, capsys):
    make("going", 8)
    process = own("going", host="elsewhere")
    assert study(["stop", "going"]) == 2
    assert f"is run by process {process.pid} on host 'elsewhere', and this is" in capsys.readouterr().err
    time.sleep(0.2)
    assert process.poll() is None


def test_a_process_that_only_has_the_owners_number_is_not_signalled(study, make, own, home, capsys):
    make("going", 8)
    own("going")
    with subprocess.Popen(["sleep", "60"]) as innocent:
        (home.study("going") / "lock").write_text(f"{innocent.pid}\n")
        assert study(["stop", "going"]) == 2
        assert f"its lock is held, but not by process {innocent.pid} of this host" in capsys.readouterr().err
        time.sleep(0.2)
        assert innocent.poll() is None
        innocent.kill()


def test_audit_says_clean_or_what_differs(study, make, capsys):
    path = make("done")
    records = records_of(path)
    kinds = [record["kind"] for record in records]
    counts = f"{len(records)} records, {kinds.count('proposed')} proposals, {kinds.count('epoch')} verdicts"
    assert study(["audit", "done"]) == 0
    assert f"audit of done: {counts} re-derived: clean (" in capsys.readouterr().out
    line = kinds.index("proposed") + 1
    records[line - 1]["source"] = "sampler"
    write(path, records)
    assert study(["audit", "done"]) == 4
    assert f"  line {line}: t0000: source is 'sampler', the log gives 'incumbent'" in capsys.readouterr().out
    assert study(["audit", "done", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["clean"], found["records"], len(found["findings"])) == (False, len(records), 1)


def test_a_study_of_an_older_version_is_not_audited(study, make, capsys):
    path = make("old", 8)
    records = records_of(path)
    header = next(record for record in records if record["kind"] == "header")
    del header["identity"]["objectives"], header["objectives"]
    header["format"] = 1
    write(path, records)
    assert study(["audit", "old"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.rstrip().endswith("(its header lacks objectives; its log has format 1, this version audits 2)")
    assert "study 'old' was made by an older version: it can be gone on with and reported, not audited" in told


def test_an_owner_that_ends_just_as_it_is_asked_to_is_no_error(study, make, own, home, monkeypatch, capsys):
    make("going", 8)
    process = own("going")

    def ends_first(self, signal):
        process.kill()
        process.wait()
        raise psutil.NoSuchProcess(self.pid)

    monkeypatch.setattr(psutil.Process, "send_signal", ends_first)
    assert study(["stop", "going"]) == 0
    assert not is_owned(home.study("going"))


def test_delete_says_what_goes_and_needs_a_yes(study, make, home, capsys, monkeypatch):
    make("done")
    make("other", 8)
    (home.study("done") / "trials" / "t0001").mkdir(parents=True)
    (home.study("done") / "trials" / "t0001" / "weights").write_bytes(bytes(2_000_000))
    assert study(["delete", "done"]) == 2
    shown = capsys.readouterr()
    assert "8 of 8 trials have ended" in shown.out
    assert "folders of 1 trials 2.0 MB, the largest t0001 with 2.0 MB" in shown.out
    assert "models registered from it have their own files and stay" in shown.out
    assert "error: --yes: is needed where no one can be asked; nothing was deleted" in shown.err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert study(["delete", "done"]) == 0
    assert "nothing was deleted" in capsys.readouterr().out
    assert home.study("done").is_dir()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert study(["delete", "done"]) == 0
    assert [path.name for path in home.study("x").parent.iterdir()] == ["other"]
    assert "study done is deleted" in capsys.readouterr().out


def test_a_running_study_is_not_deleted(study, make, own, home, capsys):
    make("going", 8)
    own("going")
    assert study(["delete", "going", "--yes"]) == 2
    assert "python launch/study.py stop going ends that" in capsys.readouterr().err
    assert (home.study("going") / "events.jsonl").is_file()


def test_a_damaged_study_is_named_with_its_line_by_all_but_delete(study, make, home, capsys):
    path = make("damaged", 8)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = b"x" + lines[4]
    path.write_bytes(b"".join(lines))
    for action in ("status", "audit"):
        assert study([action, "damaged"]) == 2
        assert "events.jsonl:5: damaged event log" in capsys.readouterr().err
    assert study(["stop", "damaged"]) == 0
    assert "is not running: damaged" in capsys.readouterr().out
    assert study(["delete", "damaged", "--yes"]) == 0
    assert not home.study("damaged").exists()


@pytest.mark.parametrize("action", ["status", "stop", "audit", "delete"])
def test_an_unknown_study_and_a_name_with_a_slash_are_refused(study, make, action, capsys):
    make("done", 3)
    assert study([action, "nothing"]) == 2
    assert "there is no study 'nothing' under " in capsys.readouterr().err
    for name in ("a/b", "../done", ".", ""):
        assert study([action, name]) == 2
        assert capsys.readouterr().err == f"error: {name!r} is no name of a study; studies: done\n"


def test_a_flag_of_another_action_is_refused(study, capsys):
    assert study(["list", "--yes"]) == 2
    assert study([]) == 2
    assert "the following arguments are required: ACTION" in capsys.readouterr().err


def test_help_list_and_status_load_nothing_heavy(make, home, monkeypatch):
    make("done", 8)
    monkeypatch.setenv("ODMT_HOME", str(home.root))
    script = (
        "import runpy, sys\n"
        "try: runpy.run_path('launch/study.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for words in (["--help"], ["list"], ["status", "done"], ["stop", "done"]):
        ended = subprocess.run(
            [sys.executable, "-c", script, *words], cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr


def test_the_pieces_of_an_interrupted_deletion_are_no_study_and_go_with_the_next(study, make, home, capsys):
    make("done", 3)
    make("other", 3)
    aside = home.study("x").parent / ".deleted"
    aside.mkdir()
    home.study("other").rename(aside / "other-1234")
    assert study(["list", "--json"]) == 0
    assert [row["study"] for row in json.loads(capsys.readouterr().out)] == ["done"]
    assert study(["status", "other"]) == 2
    assert capsys.readouterr().err.endswith("; studies: done\n")
    assert study(["delete", "done", "--yes"]) == 0
    assert list(home.study("x").parent.iterdir()) == []


def test_a_second_stop_reaches_the_owner_too(study, make, own):
    make("going", 8)
    process = own("going", deaf=True)
    assert study(["stop", "going", "--timeout", "0.2"]) == 2
    process.send_signal(signal.SIGKILL)
    assert surviving([psutil.Process(process.pid)], 5) == []
    assert study(["stop", "going"]) == 0
