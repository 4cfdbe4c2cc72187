"""Logs are made by the journal without Ray; then one field of one record is changed, checksum and all."""

import copy
import json
from importlib import metadata
from pathlib import Path

import pytest
from fake_search import write_space
from hypothesis import given, settings
from hypothesis import strategies as st
from made_study import CONDITIONAL, Search, eventful, records_of, write

from odmt.errors import ConfigError, EventLogError
from odmt.tuning.audit import audit, examine
from odmt.tuning.event_log import EventLog
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.space import load_space
from odmt.tuning.space_from_log import space_of
from odmt.tuning.state import METRIC

INERT = """
fixed: {train: {max_epochs: 4}}
incumbent: {distill.weight: 0.0, distill.temperature: 0.3}
axes:
  distill.weight: {type: choice, values: [0.0, 1.0]}
  distill.temperature: {type: choice, values: [0.3, 0.6]}
sampler: {name: random}
scheduler: {name: median, grace_period: 2, min_trials: 1}
budget: {trials: 30}
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return eventful(tmp_path_factory.mktemp("log"), CONDITIONAL, ["scheduler.sentinels=2", "scheduler.brackets=2"])


@pytest.fixture
def tampered(log, tmp_path):
    """A function that audits the log with one record changed: the first for which ``where`` holds."""

    def found(change, where):
        records = records_of(log)
        line = next(number for number, record in enumerate(records, start=1) if where(record))
        change(records[line - 1])
        return line, examine(write(tmp_path / "events.jsonl", records)).findings

    return found


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "qmc", "nsga2", "gp"])
def test_what_the_journal_wrote_is_clean(tmp_path, sampler):
    sets = [f"sampler.name={sampler}"]
    sets += ["sampler.startup_trials=10"] if sampler in ("random", "qmc", "nsga2") else []
    sets += ["sampler.population_size=3"] if sampler in ("cmaes", "nsga2") else []
    path = eventful(tmp_path, sets=sets)
    found = examine(path)
    kinds = [record["kind"] for record in records_of(path)]
    assert found.findings == []
    assert found.note is None
    assert {"opened", "resumed", "setback", "ended", "epoch"} <= set(kinds)
    assert found.proposals == kinds.count("proposed") + kinds.count("reused") >= 14
    assert (found.records, found.verdicts) == (len(kinds), kinds.count("epoch"))


def test_a_log_with_brackets_sentinels_and_conditions_is_clean_without_its_file(log):
    file = Path(records_of(log)[0]["space_file"])
    file.rename(file.with_suffix(".gone"))
    assert examine(log).findings == []


def test_reused_proposals_and_exhaustion_are_derived_too(tmp_path):
    space = load_space(write_space(tmp_path, INERT))
    path = Search(tmp_path / "study", space).start(1000)
    kinds = [record["kind"] for record in records_of(path)]
    assert "reused" in kinds
    assert "exhausted" in kinds
    found = examine(path)
    assert found.findings == []
    assert found.proposals == kinds.count("proposed") + kinds.count("reused") + 1
    records = records_of(path)
    line = max(number for number, kind in enumerate(kinds, start=1) if kind == "reused")
    records[line - 1]["of"] = "t0001" if records[line - 1]["of"] == "t0000" else "t0000"
    assert any(text.startswith(f"line {line}: reused t000") for text in examine(write(path, records)).findings)


def test_an_exhausted_space_has_nothing_left(tmp_path):
    space = load_space(write_space(tmp_path, INERT))
    path = Search(tmp_path / "study", space).start(3)
    records = [*records_of(path), {"kind": "exhausted", "time": records_of(path)[-1]["time"]}]
    (finding,) = examine(write(path, records)).findings
    assert finding.startswith(f"line {len(records)}: exhausted: but the log gives ")


def test_a_changed_verdict_is_told_with_its_line(tampered):
    def change(record):
        record["verdict"] = "complete"

    line, findings = tampered(change, lambda record: record.get("verdict") == "stop")
    assert any(
        text.startswith(f"line {line}: t") and text.endswith("the verdict is complete, the log gives stop")
        for text in findings
    )


def test_a_changed_value_is_told_with_what_follows(tampered):
    def change(record):
        record["values"]["train.weight_decay"] = 0.25

    line, findings = tampered(change, lambda record: record.get("number") == 0)
    assert findings[0] == f"line {line}: t0000: values.train.weight_decay is 0.25, the log gives 0.1"


def last_bits(records):
    drawn = next(record for record in records if record.get("source") == "sampler")
    drawn["values"]["train.weight_decay"] *= 1 + 1e-13
    drawn["config"]["train"]["weight_decay"] *= 1 + 1e-13


def test_numbers_are_compared_to_the_last_bit_where_the_libraries_are_the_same(log, tmp_path):
    records = records_of(log)
    last_bits(records)
    findings = examine(write(tmp_path / "events.jsonl", records)).findings
    assert any("values.train.weight_decay is" in text for text in findings)


def test_other_libraries_may_differ_in_the_last_bits_and_the_audit_says_so(tmp_path):
    space = load_space(write_space(tmp_path), ["sampler.name=random", "sampler.startup_trials=10"])
    path = Search(tmp_path / "study", space).start(10)
    records = records_of(path)
    last_bits(records)
    records[0]["versions"]["torch"] = "1.0"
    found = examine(write(path, records))
    assert found.findings == []
    assert found.note == f"real numbers are compared within 1e-09: torch was 1.0, is {metadata.version('torch')}"


def test_a_proposal_cannot_be_made_of_records_before_the_last_one(tampered):
    def change(record):
        record["asof"] = 1

    line, findings = tampered(change, lambda record: record.get("number") == 3)
    assert findings[0].startswith(f"line {line}: t0003: asof is 1, possible are ")


def test_early_stopping_is_derived_from_the_reports(tmp_path):
    space = load_space(write_space(tmp_path), ["train.early_stopping_patience=2", "scheduler.name=none"])
    with EventLog(tmp_path / "study") as log:
        open_study(log, "x", space, "d", extend=False)
        journal = Journal(space, log)
        given = journal.next_assignment()
        journal.began(given.trial_id, "h")
        for epoch, value in enumerate([0.5, 0.4, 0.3], start=1):
            report = {"epoch": epoch, "metrics": {METRIC: value}, "checkpoint": None, "seconds": 0.1}
            journal.report(given.trial_id, {**report, "is_last": epoch == 3})
    assert audit(log.path, space) == []
    records = records_of(log.path)
    del records[-1]
    records[-1]["verdict"] = "complete"
    findings = audit(write(log.path, records), space)
    assert findings == [f"line {len(records)}: t0000, epoch 2: the verdict is complete, the log gives continue"]


def test_a_budget_that_was_not_met_is_found(tmp_path):
    space = load_space(write_space(tmp_path), ["budget.time_hours=1"])
    path = Search(tmp_path / "study", space).start(3)
    records = records_of(path)
    limit = {"kind": "limit", "time": records[-1]["time"], "what": "time", "used": 1.0, "allowed": 1.0}
    (finding,) = audit(write(path, [*records, limit]), space)
    assert finding.startswith(f"line {len(records) + 1}: limit: used are 1.0 h of time, the log gives 0.0000")
    late = limit | {"time": limit["time"] + 3601.0, "used": 1.0003}
    assert audit(write(path, [*records, late]), space) == []


def test_a_report_while_no_attempt_runs_is_found(log, tmp_path):
    records = records_of(log)
    lines = [
        number
        for number, record in enumerate(records, start=1)
        if record["kind"] in ("started", "began") and record["trial"] == "t0013"
    ]
    for line in lines:
        records[line - 1].update(kind="aside", reason="x", host="h")
    findings = examine(write(tmp_path / "events.jsonl", records)).findings
    assert any("t0013: reported while no attempt at it was running" in text for text in findings)
    assert findings[0] == f"line {lines[0]}: aside: h for 'x', the log gives nothing"


@pytest.mark.parametrize(
    ("after", "what", "said"),
    [
        ("began", {"kind": "began"}, "t0000: attempt 1 began to work, while it already had"),
        ("started", {"kind": "left", "in_epoch": True}, "t0000: attempt 1 was left in an epoch that it had not begun"),
        ("began", {"kind": "left", "in_epoch": True}, "t0000: reported while no attempt at it was running"),
    ],
)
def test_work_or_an_ending_that_an_attempt_cannot_have_is_found(log, tmp_path, after, what, said):
    records = records_of(log)
    line = next(n for n, one in enumerate(records) if one["kind"] == after and one["trial"] == "t0000")
    records.insert(line + 1, {**what, "trial": "t0000", "attempt": 1, "host": "h", "time": records[line]["time"]})
    findings = examine(write(tmp_path / "events.jsonl", records)).findings
    assert any(said in text for text in findings)


def test_a_report_of_an_attempt_that_had_not_begun_is_found(log, tmp_path):
    records = [one for one in records_of(log) if (one["kind"], one.get("trial")) != ("began", "t0000")]
    findings = examine(write(tmp_path / "events.jsonl", records)).findings
    assert any("t0000: reported in attempt 1, which had not begun to work" in text for text in findings)


def test_time_does_not_run_backwards(tampered):
    def change(record):
        record["time"] -= 3600

    line, findings = tampered(change, lambda record: record.get("kind") == "setback")
    assert any(text.startswith(f"line {line}: setback: its time is 3600 s before") for text in findings)


@pytest.mark.parametrize("what", ["oom", "died"])
def test_a_driver_killed_right_after_a_setback_does_what_was_decided(tmp_path, what):
    space = load_space(write_space(tmp_path), ["resources.max_retries=0"])
    search = Search(tmp_path / "study", space, max_retries=0)
    path = search.start(20, [what])
    records = records_of(path)
    line = next(number for number, record in enumerate(records, start=1) if record["kind"] == "setback")
    trial = records[line - 1]["trial"]
    search.folder.joinpath("events.jsonl").write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:line]))
    records = records_of(search.start(1000))
    (following,) = [record for record in records[line:] if record.get("trial") == trial][:1]
    if what == "oom":
        assert (following["kind"], following["adjust"]) == ("started", {"train.recompute_items": True})
    else:
        assert (following["kind"], following["state"], following["reason"]) == ("ended", "failed", "bad luck")
    assert examine(path).findings == []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("oom", "adjust is {}, the log gives {'train.recompute_items': True}"),
        ("died", "attempt 2 began, but after died no other one was to follow"),
    ],
)
def test_an_attempt_that_does_not_follow_from_the_setback_is_found(tmp_path, what, said):
    space = load_space(write_space(tmp_path), ["resources.max_retries=0"])
    path = Search(tmp_path / "study", space, max_retries=0).start(20, [what])
    records = records_of(path)
    line = next(number for number, record in enumerate(records, start=1) if record["kind"] == "setback")
    trial = records[line - 1]["trial"]
    started = {"kind": "started", "time": records[line - 1]["time"], "trial": trial, "attempt": 2}
    assert f"line {line + 1}: {trial}: {said}" in examine(write(path, [*records[:line], started])).findings


def test_a_damaged_line_is_refused_by_its_number(log, tmp_path):
    lines = log.read_bytes().splitlines(keepends=True)
    lines[6] = lines[6].replace(b"t", b"u", 1)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(lines))
    with pytest.raises(EventLogError, match=r"events\.jsonl:7: damaged event log: its checksum does not match"):
        examine(path)


def test_a_log_without_a_header_or_with_one_of_another_version_is_refused(log, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"")
    with pytest.raises(EventLogError, match="holds no header"):
        examine(path)
    records = records_of(log)
    records[0]["identity"]["sampler"]["colour"] = "red"
    with pytest.raises(ConfigError, match="the space in the log of study 'study': sampler: colour: unknown key"):
        examine(write(path, records))


def changed(value):
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {**value, "more": 1}
    return "other" if value is None else f"{value}x"


DRAWN = ["values", "distributions", "system_attrs", "study_attrs", "draws"]
DERIVED = {
    "header": ["digest", "seed", "dataset", "objectives"],
    "proposed": ["trial", "number", "config", "source", "sentinel", "bracket", *DRAWN],
    "reused": ["of", *DRAWN],
    "started": ["trial", "attempt", "adjust"],
    "began": ["trial", "attempt"],
    "left": ["trial", "attempt"],
    "resumed": ["trial", "attempt", "from_epoch", "redone"],
    "epoch": ["trial", "epoch", "verdict", "reason"],
    "setback": ["trial", "attempt", "retry", "wait_seconds", "quick"],
    "ended": ["trial", "state"],
    "aside": ["reason"],
}
OTHERS = {
    "verdict": ["continue", "stop", "complete", "fail"],
    "state": ["completed", "stopped", "failed"],
}


@given(st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_any_changed_field_that_follows_from_the_rest_is_found(log, tmp_path_factory, random):
    records = copy.deepcopy(records_of(log))
    kind = random.choice([kind for kind in DERIVED if any(record["kind"] == kind for record in records)])
    record = random.choice([record for record in records if record["kind"] == kind])
    field = random.choice(DERIVED[kind])
    if field in OTHERS:
        record[field] = random.choice([value for value in OTHERS[field] if value != record[field]])
    elif field == "objectives":
        record[field] = [*record[field], ["valid/mrr", "max"]]
    else:
        record[field] = changed(record.get(field))
    try:
        findings = examine(write(tmp_path_factory.mktemp("tampered") / "events.jsonl", records)).findings
    except EventLogError:
        return
    assert findings, json.dumps([kind, field, record])


@pytest.mark.parametrize("name", ["arts", "demo", "hm", "office", "stream"])
def test_every_shipped_space_comes_back_from_a_header(tmp_path, name):
    space = load_space(name, ["budget.time_hours=2"])
    with EventLog(tmp_path / "study") as log:
        open_study(log, "x", space, "d", extend=False)
        again = space_of(log.study.header)
    assert again.identity() == log.study.header["identity"]
    assert (again.digest, again.budget) == (space.digest, space.budget)
    assert list(again.axes.items()) == list(space.axes.items())
    assert again.base == space.base
