"""Studies as the journal leaves them behind, without Ray: restarts, setbacks, trials of all outcomes."""

import math
import random

from fake_search import SPACE, write_space

from odmt.tuning.event_log import EventLog, decode, encode
from odmt.tuning.identity import open_study
from odmt.tuning.journal import Journal
from odmt.tuning.space import load_space
from odmt.tuning.state import METRIC

CONDITIONAL = SPACE.replace(
    "axes:",
    "axes:\n  distill.rampup_epochs: {type: quniform, low: 0, high: 20, q: 5, when: {fusion.id_masking: true}}"
    "\n  fusion.id_masking: {type: choice, values: [true, false]}",
).replace("incumbent: {", "incumbent: {fusion.id_masking: true, distill.rampup_epochs: 5, ")


class Search:
    """Two trials at once, whatever happens to them; begun anew as often as wanted."""

    def __init__(self, folder, space, seed=0, **opened):
        self.folder, self.space, self.opened = folder, space, opened
        self.random = random.Random(seed)

    def start(self, reports, mishaps=(), killed=True):
        """Open the study, take at most so many reports, and leave as a driver does that is killed or that stops."""
        mishaps = list(mishaps)
        with EventLog(self.folder) as log:
            open_study(log, self.folder.name, self.space, "d", extend=False)
            resources = {"max_retries": 2, "retry_wait_seconds": 5.0}
            started = {"pid": 1, "host": "h", "code": "c", "cpus": 1, "gpus": 0, "concurrent": 2}
            log.commit("opened", **started | resources | self.opened)
            journal = Journal(self.space, log, clock=lambda: float(len(log.path.read_bytes())) * 1e3)
            running = {}
            for _ in range(reports):
                while len(running) < 2 and (given := journal.next_assignment()) is not None:
                    running[given.trial_id] = given
                if not running:
                    break
                given = self.random.choice(list(running.values()))
                trial = log.study.trials[given.trial_id]
                if mishaps and len(trial.epochs) == 1:
                    journal.setback(trial.trial_id, mishaps.pop(0), "bad luck", host="h")
                    del running[trial.trial_id]
                    continue
                value = math.nan if self.random.random() < 0.04 else self.random.random()
                told = {"attempt": given.attempt, "checkpoint": None, "seconds": 0.1, "host": "h"}
                epoch = len(trial.epochs) + 1
                if not trial.in_epoch:
                    journal.began(trial.trial_id, "h")
                if given.attempt > 1 and trial.epochs_at_start == len(trial.epochs) and trial.epochs:
                    epoch -= self.random.randrange(2)  # its last checkpoint may be one epoch older
                if journal.report(given.trial_id, {"epoch": epoch, "metrics": {METRIC: value}, **told}) != "continue":
                    running.pop(given.trial_id)
            for trial in () if killed else running:
                journal.left(trial, in_epoch=log.study.trials[trial].in_epoch)
            journal.close()
        return self.folder / "events.jsonl"


def records_of(path):
    return [decode(line) for line in path.read_bytes().splitlines()]


def write(path, records):
    path.write_bytes(b"".join(map(encode, records)))
    return path


def eventful(folder, text=SPACE, sets=()):
    """A log with restarts, setbacks, reports that are no numbers, and trials of all outcomes."""
    space = load_space(write_space(folder, text), ["budget.trials=14", *sets])
    search = Search(folder / "study", space)
    search.start(9, ["died"])
    search.start(14, ["oom", "hung", "died"])
    search.start(6, killed=False)
    return search.start(1000, ["error"])
