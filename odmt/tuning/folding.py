"""What each kind of record does to a study. Live and on replay the same ``apply`` is used, so they cannot drift."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from odmt.tuning.state import LOG_FORMAT, Reuse, Study, WarmTrial
from odmt.tuning.trials import CONTINUE, ENDED, OUTCOME_OF, SEVERAL_CODES, Epoch, Trial

Record = Mapping[str, Any]
_COUNTED = frozenset({"resumed", "epoch", "left", "setback", "ended"})


def apply(study: Study, record: Record) -> None:
    """Fold one record into the study.

    Raises:
        ValueError: the record cannot follow what came before it; the study is unchanged.
        KeyError: the record lacks a field.
    """
    kind = record["kind"]
    if kind != "header" and not study.header:
        raise ValueError("a record before the header")
    if kind not in _FOLDS:
        raise ValueError(f"unknown kind {kind!r}")
    _FOLDS[kind](study, record)
    _count_time(study, record)
    study.records += 1


def _count_time(study: Study, record: Record) -> None:
    """Add the time since the record before to what the search, its devices and its running trials have used.

    The time between a driver's last record and the next driver's first is nobody's: nothing ran, or what ran was lost.
    """
    now = record.get("time")
    if now is None:
        return
    kind = record["kind"]
    if study.last_time is not None and kind not in ("header", "opened", "extended", "warm"):
        study.seconds_used += max(0.0, now - study.last_time)
    trial = study.trials.get(record.get("trial", ""))
    if trial is not None and kind in _COUNTED and trial.busy_since is not None:
        _busy(study, trial, now)
        if trial.is_ended or kind in ("setback", "left"):
            trial.busy_since = None
    if kind in ("opened", "extended"):  # a driver that has begun nothing yet writes these
        for running in study.trials.values():
            if running.busy_since is not None and study.last_time is not None:
                _busy(
                    study, running, study.last_time
                )  # known to have run until the driver before wrote its last record
            running.busy_since = None
    study.last_time = now


def _busy(study: Study, trial: Trial, now: float) -> None:
    since = trial.busy_since
    spent = max(0.0, now - since) if since is not None else 0.0
    trial.busy_seconds += spent
    study.device_seconds += spent * study.devices
    trial.busy_since = now


def _header(study: Study, record: Record) -> None:
    if study.trials:
        raise ValueError("a second header after the first trial")
    if record.get("format", LOG_FORMAT) > LOG_FORMAT:
        raise ValueError(f"a newer version made it: format {record['format']}, this version reads up to {LOG_FORMAT}")
    fresh = Study(records=study.records, last_time=study.last_time)
    study.__dict__.update(fresh.__dict__)
    study.budget = record["trials"]
    study.seconds_allowed, study.gpu_hours_allowed = record.get("seconds"), record.get("gpu_hours")
    study.code = record.get("code", "")
    study.header = record


def _opened(study: Study, record: Record) -> None:
    study.uses_gpu = bool(record["gpus"])
    study.devices = record["gpus"] or record["cpus"]
    study.opened += 1
    # Of files that differ from their commit nobody knows how: each start counts as code of its own.
    study.code = f"{record['code']}#{study.opened}" if record["code"].endswith("-dirty") else record["code"]


def _warm(study: Study, record: Record) -> None:
    if study.trials:
        raise ValueError("a warm start after the first trial")
    if record["mode"] not in ("evidence", "proposals"):
        raise ValueError(f"unknown mode {record['mode']!r}")
    found = [
        WarmTrial(
            record["study"], one["trial"], one["values"], one.get("distributions", {}), one["value"], one.get("rank", 0)
        )
        for one in record["trials"]
    ]
    (study.evidence if record["mode"] == "evidence" else study.queue).extend(found)
    study.warmed.append(record)
    study.queue.sort(key=lambda warm: warm.rank)


def _proposed(study: Study, record: Record) -> None:
    if record["trial"] in study.trials or record["number"] != len(study.trials):
        raise ValueError(f"trial {record['trial']} number {record['number']} is out of order")
    study.trials[record["trial"]] = Trial(
        trial_id=record["trial"],
        number=record["number"],
        values=record["values"],
        config=record["config"],
        distributions=record["distributions"],
        system_attrs=record["system_attrs"],
        draws=record["draws"],
        proposed=record["time"],
        source=record.get("source", "sampler"),
        sentinel=record.get("sentinel", False),
        bracket=record.get("bracket", 0),
        code=study.code,
    )
    study.order.append(record["trial"])
    study.study_attrs.update(record.get("study_attrs", {}))


def _reused(study: Study, record: Record) -> None:
    if record["of"] not in study.trials:
        raise ValueError(f"trial {record['of']} is unknown")
    reuse = Reuse(record["of"], record["values"], record["distributions"], record["system_attrs"])
    study.reused.append(reuse)
    study.order.append(reuse)
    study.study_attrs.update(record.get("study_attrs", {}))


def _started(study: Study, record: Record) -> None:
    trial = _open_trial(study, record)
    if record["attempt"] != trial.attempt + 1:
        raise ValueError(f"attempt {record['attempt']} follows attempt {trial.attempt}")
    trial.attempt = record["attempt"]
    if trial.attempt > 1 and trial.code != study.code:
        trial.code = SEVERAL_CODES
    trial.started = trial.started or record["time"]
    trial.busy_since = record["time"]
    trial.epochs_at_start = len(trial.epochs)
    trial.epochs_to_redo += trial.in_epoch
    trial.in_epoch = False
    trial.adjust = {**trial.adjust, **record.get("adjust", {})}
    trial.state = "running"


def _began(study: Study, record: Record) -> None:
    _of_attempt(study, record).in_epoch = True


def _resumed(study: Study, record: Record) -> None:
    trial = _of_attempt(study, record)
    trial.epochs_to_redo = 0
    study.resumed += 1
    study.epochs_redone += record["redone"]


def _left(study: Study, record: Record) -> None:
    _of_attempt(study, record).in_epoch = record["in_epoch"]


def _epoch(study: Study, record: Record) -> None:
    trial = _open_trial(study, record)
    if record["epoch"] != len(trial.epochs) + 1:
        raise ValueError(f"epoch {record['epoch']} follows epoch {len(trial.epochs)}")
    verdict = record["verdict"]
    if verdict != CONTINUE and verdict not in OUTCOME_OF:
        raise ValueError(f"unknown verdict {verdict!r}")
    metrics = {name: math.nan if value is None else float(value) for name, value in record["metrics"].items()}
    epoch = Epoch(
        record["epoch"],
        metrics,
        verdict,
        record["checkpoint"],
        record["seconds"],
        record["time"],
        record.get("host"),
    )
    if len(trial.epochs) == trial.epochs_at_start and trial.epochs_to_redo:
        trial.epochs_to_redo -= 1  # not told before it was interrupted, but saved: this one is not done again
    trial.epochs.append(epoch)
    if verdict in OUTCOME_OF:
        _end(study, trial, OUTCOME_OF[verdict], record)


def _setback(study: Study, record: Record) -> None:
    trial = _open_trial(study, record)
    trial.setbacks += 1
    study.setbacks.append(record)


def _ended(study: Study, record: Record) -> None:
    if record["state"] not in ENDED:
        raise ValueError(f"unknown state {record['state']!r}")
    trial = _open_trial(study, record)
    trial.traceback, trial.log_tail = record.get("traceback"), record.get("log_tail")
    _end(study, trial, record["state"], record)


def _aside(study: Study, record: Record) -> None:
    study.aside[record["host"]] = record["reason"]


def _limit(study: Study, record: Record) -> None:
    if record["what"] not in ("time", "gpu-hours"):
        raise ValueError(f"unknown limit {record['what']!r}")
    study.limit = record["what"]


def _extended(study: Study, record: Record) -> None:
    trials = record.get("trials", study.budget)
    if "trials" in record and trials <= study.budget:
        raise ValueError(f"{trials} trials do not extend {study.budget}")
    study.budget = trials
    study.seconds_allowed = record.get("seconds", study.seconds_allowed)
    study.gpu_hours_allowed = record.get("gpu_hours", study.gpu_hours_allowed)
    study.limit = None
    study.exhausted = False


def _exhausted(study: Study, record: Record) -> None:
    del record
    study.exhausted = True


def _tainted(study: Study, record: Record) -> None:
    study.tainted = record["reason"]


def _open_trial(study: Study, record: Record) -> Trial:
    trial = study.trials.get(record["trial"])
    if trial is None or trial.is_ended:
        raise ValueError(f"trial {record['trial']} is {'unknown' if trial is None else trial.state}")
    return trial


def _of_attempt(study: Study, record: Record) -> Trial:
    trial = _open_trial(study, record)
    if record["attempt"] != trial.attempt:
        raise ValueError(f"attempt {record['attempt']} is not attempt {trial.attempt}")
    return trial


def _end(study: Study, trial: Trial, state: str, record: Record) -> None:
    trial.state, trial.reason, trial.ended, trial.place = state, record.get("reason"), record["time"], study.records
    if trial.in_epoch:  # a further attempt ended before it told where it had gone on
        study.epochs_redone += trial.epochs_to_redo
    trial.epochs_to_redo = 0


_FOLDS: Mapping[str, Callable[[Study, Record], None]] = {
    "header": _header,
    "opened": _opened,
    "warm": _warm,
    "proposed": _proposed,
    "reused": _reused,
    "started": _started,
    "began": _began,
    "resumed": _resumed,
    "left": _left,
    "epoch": _epoch,
    "setback": _setback,
    "ended": _ended,
    "aside": _aside,
    "limit": _limit,
    "extended": _extended,
    "exhausted": _exhausted,
    "tainted": _tainted,
}
