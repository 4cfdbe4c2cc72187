"""A study some of whose trials have ended, without Ray."""

from odmt.tuning.event_log import EventLog
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.state import METRIC
from odmt.tuning.study import read_study


def study_with_trials(home, space, *values):
    """Each of the values is a completed trial's metric."""
    with EventLog(home.study("small")) as log:
        open_study(log, "small", space, "fake-data", extend=False)
        log.commit("opened", pid=1, host="h", code="c", cpus=1.0, gpus=0.0, concurrent=1)
        journal = Journal(space, log)
        for value in values:
            trial = journal.next_assignment().trial_id
            for epoch in range(1, 7):
                result = {"epoch": epoch, "metrics": {METRIC: value}, "checkpoint": None, "seconds": 30.0, "host": "h"}
                journal.report(trial, result)
        journal.close()
    return read_study(home, "small")
