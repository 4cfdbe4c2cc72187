import io

from ended_study import study_with_trials
from rich.console import Console

from odmt.tuning import ending
from odmt.tuning.event_log import EventLog
from odmt.tuning.journal import Journal
from odmt.tuning.study import read_study


def test_the_end_says_what_was_kept_and_what_was_done_again(home, space):
    before = study_with_trials(home, space, 0.5)
    with EventLog(home.study("small")) as log:
        journal = Journal(space, log)
        log.commit("opened", pid=1, host="h", code="c", cpus=1.0, gpus=0.0, concurrent=1)
        trial = journal.next_assignment().trial_id
        log.commit("resumed", trial=trial, attempt=1, from_epoch=0, redone=3)
        for kind in ("died", "oom", "died"):
            journal.setback(trial, kind, "gone", host="h")
        log.commit("limit", what="time", used=2.0, allowed=2.0)
        journal.close()
    after = read_study(home, "small")
    words = list(ending.outcome(after, before))
    assert words[1] == "went on after 1 ended trials: lost 0, repeated 0, resumed 0, epochs redone 3"
    assert "budget.time_hours ended the search: 0.00 h, 2 of 8 trials begun; 1 trials are kept" in words[2]
    assert words[2].endswith("to go on: the same command with --extend and a larger --time-budget")
    assert words[3] == "3 attempts ended badly: worker died 2, out of memory 1"


def test_the_end_sets_the_plan_against_what_happened(home, space):
    study = study_with_trials(home, space, 0.5, 0.6)
    checkpoint = home.study("small") / "trials" / "t0000" / "e000001-a001-ab"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights.safetensors").write_bytes(b"x" * 3_000_000)
    plan = {"trials": 8, "completed": 2.0, "epochs": 28.0, "hours": 0.5, "device_hours": 1.0, "checkpoint_bytes": 9e6}
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(ending.plan_table(study, plan, home.study("small")))
    rows = {line[:14].strip(): line[14:].split("  ") for line in console.export_text().splitlines()[1:]}
    shown = {name: [cell.strip() for cell in cells if cell.strip()] for name, cells in rows.items()}
    assert shown["trials"] == ["8", "2"]
    assert shown["epochs"] == ["28", "12"]
    assert shown["time"][0] == "30 min"
    assert shown["checkpoints"] == ["up to 9.0 MB", "3.0 MB"]
