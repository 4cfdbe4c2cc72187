"""The attempts at a study's trials in the order of its log: begun, gone on with, ended, tried again."""

from collections.abc import Iterator, Mapping
from typing import Any

from odmt.tuning.faults import LONGEST_WAIT_SECONDS, QUICK_SECONDS, another_attempt, host_to_put_aside
from odmt.tuning.recorded import shown
from odmt.tuning.sections import ResourcesConfig
from odmt.tuning.state import Study, Trial

_CLOCK_SECONDS = 2.0
"""Between a decision and the time in its record."""
_MANY = 10**6
Record = Mapping[str, Any]


class Attempts:
    """Which attempts run at a place in the log, and what may come next.

    How often a lost worker's trial is tried again is a setting that may differ between starts of the search. Where its
    ``opened`` record does not hold it, all decisions since must agree with one number of retries and one wait.
    """

    def __init__(self) -> None:
        """Begin before the first record."""
        self._live: set[str] = set()
        self._told: set[str] = set()  # attempts that have said where they went on
        self._since_opened: set[str] = set()
        self._setbacks: dict[str, Record] = {}  # a trial's last, until its next attempt
        self._adjust: dict[str, Mapping[str, Any]] = {}
        self._least, self._most, self._wait = 0, _MANY, None

    def take(self, record: Record, study: Study) -> None:
        """Note a record that has been folded into ``study``."""
        kind, trial = record["kind"], record.get("trial", "")
        if kind == "opened":
            self._live.clear()
            self._since_opened.clear()
            retries = record.get("max_retries")
            self._least, self._most = (0, _MANY) if retries is None else (retries, retries)
            self._wait = record.get("retry_wait_seconds")
        elif kind == "started":
            self._live.add(trial)
            self._since_opened.add(trial)
            self._told.discard(trial)
            self._setbacks.pop(trial, None)
        elif kind == "resumed":
            self._told.add(trial)
        elif kind == "setback":
            self._live.discard(trial)
            self._setbacks[trial] = record
        elif kind == "left":
            self._live.discard(trial)
        if trial in study.trials and study.trials[trial].is_ended:
            self._live.discard(trial)

    def findings(self, record: Record, study: Study) -> Iterator[str]:
        """Yield what does not fit about a record that follows ``study``."""
        check = _CHECKS.get(record["kind"])
        trial = study.trials.get(record.get("trial", ""))
        if record["kind"] in ("proposed", "reused", "exhausted"):
            waiting = [one.trial_id for one in study.interrupted if one.trial_id not in self._since_opened]
            if waiting:
                yield f"{record['kind']}: before {', '.join(waiting)} was gone on with"
        if record["kind"] == "aside":
            yield from _aside(record, study)
        if check is not None and trial is not None and not trial.is_ended:  # else folding refuses it
            for text in check(self, record, study, trial):
                yield f"{trial.trial_id}: {text}"

    def _started(self, record: Record, study: Study, trial: Trial) -> Iterator[str]:
        if trial.trial_id in self._live:
            yield f"attempt {record['attempt']} began while attempt {trial.attempt} was running"
        if study.tainted:
            yield f"began after the study was tainted: {study.tainted}"
        if study.limit is not None:
            yield f"began after the budget of {study.limit} was met"
        before = self._setbacks.get(trial.trial_id)
        if before is not None and not before["retry"]:
            yield f"attempt {record['attempt']} began, but after {before['what']} no other one was to follow"
        adjust, follows = record.get("adjust", {}), self._adjust.get(trial.trial_id, {}) if before else {}
        if adjust != follows:
            yield f"adjust is {shown(adjust)}, the log gives {shown(follows)}"

    def _epoch(self, record: Record, study: Study, trial: Trial) -> Iterator[str]:
        del record, study
        if trial.trial_id not in self._live:
            yield "reported while no attempt at it was running"
        elif not trial.in_epoch:
            yield f"reported in attempt {trial.attempt}, which had not begun to work"

    def _began(self, record: Record, study: Study, trial: Trial) -> Iterator[str]:
        del study
        if trial.trial_id not in self._live or trial.in_epoch:
            found = "it already had" if trial.in_epoch else "none was running"
            yield f"attempt {record['attempt']} began to work, while {found}"

    def _left(self, record: Record, study: Study, trial: Trial) -> Iterator[str]:
        del study
        if trial.trial_id not in self._live:
            yield f"attempt {record['attempt']} was left, which was not running"
        elif record["in_epoch"] and not trial.in_epoch:
            yield f"attempt {record['attempt']} was left in an epoch that it had not begun"

    def _resumed(self, record: Record, study: Study, trial: Trial) -> Iterator[str]:
        del study
        recorded, saved = len(trial.epochs), record["from_epoch"]
        if trial.attempt < 2 or trial.trial_id not in self._live:
            yield f"went on in attempt {trial.attempt}, which is no further one that runs"
        elif trial.trial_id in self._told:
            yield f"went on twice in attempt {trial.attempt}"
        if not 0 <= saved <= recorded:
            yield f"went on from epoch {saved}, of {recorded} that are recorded"
        follows = max(0, recorded - saved) + trial.epochs_to_redo
        if record["redone"] != follows:
            yield f"redone are {record['redone']} epochs, the log gives {follows}"

    def _setback(self, record: Record, study: Study, trial: Trial) -> Iterator[str]:
        if record["attempt"] != trial.attempt or trial.trial_id not in self._live:
            yield f"a setback of attempt {record['attempt']}, which was not running"
        ran = record["time"] - (trial.busy_since or record["time"])
        quick = ran < QUICK_SECONDS and len(trial.epochs) == trial.epochs_at_start
        if record["quick"] != quick and not (
            abs(ran - QUICK_SECONDS) < _CLOCK_SECONDS and len(trial.epochs) == trial.epochs_at_start
        ):
            yield f"quick is {record['quick']}, the log gives {quick}"
        again = another_attempt(study, trial, record["what"], ResourcesConfig(max_retries=_MANY, retry_wait_seconds=1))
        self._adjust[trial.trial_id] = again.adjust if again else {}
        if record["what"] not in ("died", "hung"):
            wait = again.wait_seconds if again else None
            if (record["retry"], record["wait_seconds"]) != (again is not None, wait):
                said = f"retry is {record['retry']} after {shown(record['wait_seconds'])} s"
                yield f"{said}, the log gives {again is not None} after {shown(wait)} s"
            return
        yield from self._of_lost_worker(record, study, trial)

    def _of_lost_worker(self, record: Record, study: Study, trial: Trial) -> Iterator[str]:
        lost = [one for one in study.setbacks if one["trial"] == trial.trial_id and one["what"] in ("died", "hung")]
        if record["retry"]:
            self._least = max(self._least, len(lost) + 1)
        else:
            self._most = min(self._most, len(lost))
        if self._least > self._most:
            yield f"retry is {record['retry']} after {len(lost)} earlier ones, which is not how others were decided"
            self._least, self._most = 0, _MANY
        waits = record["wait_seconds"]
        if record["retry"] and self._wait is None and waits is not None and waits < LONGEST_WAIT_SECONDS:
            self._wait = waits / 2 ** len(lost)
        wait = None
        if record["retry"]:
            first = LONGEST_WAIT_SECONDS if self._wait is None else self._wait
            resources = ResourcesConfig(max_retries=_MANY, retry_wait_seconds=first)
            again = another_attempt(study, trial, record["what"], resources)
            wait = again.wait_seconds if again else None
        if waits != wait:
            yield f"waits {shown(waits)} s, the log gives {shown(wait)} s"

    def _ended(self, record: Record, study: Study, trial: Trial) -> Iterator[str]:
        del study
        before, reason = self._setbacks.get(trial.trial_id), record.get("reason")
        if record["state"] == "stopped":
            yield "was stopped without a verdict on an epoch"
        elif record["state"] == "completed":
            if reason is not None or not trial.epochs or trial.trial_id not in self._live:
                yield f"is complete by itself, with the reason {shown(reason)} and {len(trial.epochs)} epochs"
        elif before is not None and before["retry"]:
            yield f"failed, but after {before['what']} another attempt was to follow"
        elif before is not None and before["reason"] != reason:
            yield f"failed for {shown(reason)}, its setback says {shown(before['reason'])}"
        elif before is None and (trial.trial_id not in self._live or not reason):
            yield f"failed for {shown(reason)} while no attempt at it was running"


def _aside(record: Record, study: Study) -> Iterator[str]:
    why = host_to_put_aside(study, record["host"])
    if record["reason"] != why:
        yield f"aside: {record['host']} for {shown(record['reason'])}, the log gives {shown(why)}"


_CHECKS = {
    "started": Attempts._started,
    "epoch": Attempts._epoch,
    "began": Attempts._began,
    "resumed": Attempts._resumed,
    "left": Attempts._left,
    "setback": Attempts._setback,
    "ended": Attempts._ended,
}
