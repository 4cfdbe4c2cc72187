import json
import math
import os
import subprocess
import sys

import pytest

from odmt.errors import EventLogError, ServiceError, StudyLockedError
from odmt.tuning.event_log import EventLog, encode, is_owned, read_log
from odmt.tuning.folding import apply
from odmt.tuning.state import Study

HEADER = {"study_id": "s", "trials": 3}
PROPOSAL = {"values": {"a": 1}, "config": {}, "distributions": {}, "system_attrs": {}, "draws": 1}
EPOCH = {"checkpoint": None, "seconds": 1.0}


def write_some(folder):
    with EventLog(folder) as log:
        log.commit("header", **HEADER)
        for number in range(2):
            log.commit("proposed", trial=f"t{number}", number=number, **PROPOSAL)
            log.commit("started", trial=f"t{number}", attempt=1)
        log.commit("epoch", trial="t0", epoch=1, metrics={"valid/ndcg_at_10": 0.5}, verdict="continue", **EPOCH)
        log.commit("epoch", trial="t0", epoch=2, metrics={"valid/ndcg_at_10": 0.4}, verdict="complete", **EPOCH)
        log.commit("epoch", trial="t1", epoch=1, metrics={"valid/ndcg_at_10": math.nan}, verdict="fail", **EPOCH)
        return log.study


def test_replay_gives_what_was_live(tmp_path):
    live = write_some(tmp_path)
    assert repr(read_log(tmp_path / "events.jsonl")) == repr(live)  # repr: NaN is not equal to itself
    assert [trial.state for trial in live.trials.values()] == ["completed", "failed"]
    assert live.trials["t0"].best.epoch == 1
    assert live.best is live.trials["t0"]
    assert math.isnan(live.trials["t1"].epochs[0].value)
    assert not live.finished  # three trials are wanted


def test_nan_is_written_as_null(tmp_path):
    write_some(tmp_path)
    assert '"valid/ndcg_at_10":null' in (tmp_path / "events.jsonl").read_text()


def test_a_tail_torn_at_any_byte_is_cut_and_the_rest_kept(tmp_path):
    write_some(tmp_path)
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with EventLog(tmp_path) as log:
            found = path.read_bytes()
            assert found == whole[: whole.rfind(b"\n", 0, length) + 1]
            expected = Study()
            for line in found.splitlines():
                apply(expected, json.loads(line))
            assert len(log.study.trials) == len(expected.trials)
            assert log.study.num_ended == expected.num_ended


def test_a_torn_log_goes_on_where_it_was_cut(tmp_path):
    write_some(tmp_path)
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with EventLog(tmp_path) as log:
        assert log.study.trials["t1"].state == "running"
        log.commit("ended", trial="t1", state="failed", reason="again")
    assert read_log(path).trials["t1"].reason == "again"


@pytest.mark.parametrize("line", [1, 4, 8])
def test_damage_inside_is_refused_with_its_line(tmp_path, line):
    write_some(tmp_path)
    path = tmp_path / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b'"kind"', b'"kand"')
    path.write_bytes(b"".join(lines))
    with pytest.raises(EventLogError, match=rf"events\.jsonl:{line}: damaged event log: its checksum does not match"):
        EventLog(tmp_path)
    assert not is_owned(tmp_path)


def test_a_missing_line_is_refused(tmp_path):
    write_some(tmp_path)
    path = tmp_path / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(EventLogError, match=r"events\.jsonl:2: damaged event log: trial t0 is unknown"):
        read_log(path)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"kind": "nonsense"}, "unknown kind 'nonsense'"),
        ({"kind": "header", "trials": 1}, "a second header"),
        ({"kind": "epoch", "trial": "t0", "epoch": 3}, "trial t0 is completed"),
        ({"kind": "started", "trial": "t7", "attempt": 1}, "trial t7 is unknown"),
        ({"kind": "extended", "trials": 3}, "3 trials do not extend 3"),
        ({"kind": "tainted"}, "the record lacks 'reason'"),
    ],
)
def test_a_record_that_cannot_follow_is_refused_on_replay(tmp_path, record, words):
    write_some(tmp_path)
    path = tmp_path / "events.jsonl"
    with path.open("ab") as file:
        file.write(encode(record | {"time": 0.0}))
    with pytest.raises(EventLogError, match=words):
        read_log(path)


def test_a_log_of_a_newer_version_is_refused_as_such(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(encode({"kind": "header", "trials": 3, "format": 99, "time": 0.0}))
    with pytest.raises(EventLogError, match="a newer version made it: format 99, this version reads up to 2"):
        read_log(tmp_path / "events.jsonl")


def test_a_second_driver_is_refused_and_told_who_owns_the_study(tmp_path):
    code = f"from odmt.tuning.event_log import EventLog; from pathlib import Path; EventLog(Path({str(tmp_path)!r}))"
    with EventLog(tmp_path):
        assert is_owned(tmp_path)
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"is being run by process {os.getpid()}" in ended.stderr
        with pytest.raises(StudyLockedError, match=f"is being run by process {os.getpid()}; wait for it"):
            EventLog(tmp_path)
    EventLog(tmp_path).close()


def test_what_a_listener_raises_does_not_reach_the_search(tmp_path, caplog):
    seen = []

    def broken(study, record):
        raise RuntimeError("no MLflow today")

    with EventLog(tmp_path) as log:
        log.listeners += [broken, lambda study, record: seen.append(record["kind"])]
        log.commit("header", **HEADER)
    assert seen == ["header"]
    assert "a listener failed on header" in caplog.text
    assert read_log(tmp_path / "events.jsonl").budget == 3


def test_a_record_that_cannot_follow_leaves_nothing(tmp_path):
    with EventLog(tmp_path) as log:
        log.commit("header", **HEADER)
        before = log.path.read_bytes()
        with pytest.raises(ValueError, match="trial nope is unknown"):
            log.commit("started", trial="nope", attempt=1)
        assert log.path.read_bytes() == before


def test_a_full_disk_leaves_no_half_record(tmp_path, monkeypatch):
    with EventLog(tmp_path) as log:
        log.commit("header", **HEADER)
        before = log.path.read_bytes()
        real = os.write

        def full(descriptor, data):
            real(descriptor, data[:7])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ServiceError, match=r"events.jsonl: cannot be written: No space left on device") as caught:
            log.commit("proposed", trial="t0", number=0, **PROPOSAL)
        assert log.failure is caught.value
        assert log.path.read_bytes() == before
        assert log.study.trials == {}
