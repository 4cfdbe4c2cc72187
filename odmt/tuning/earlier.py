"""How long an epoch took in studies that are there already."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odmt.errors import EventLogError
from odmt.home import Home
from odmt.tuning.event_log import read_log
from odmt.tuning.plan import Pace
from odmt.tuning.space import Space


def earlier_pace(home: Home, space: Space, name: str) -> Pace | None:
    """Return the median seconds of an epoch in this study, or in the newest one on the same data set; None = none."""
    dataset = space.base.data.dataset
    logs = sorted(home.study(name).parent.glob("*/events.jsonl"), key=_newest, reverse=True)
    for path in sorted(logs, key=lambda log: log.parent.name != name):
        if _first_record(path).get("dataset") != dataset:
            continue
        try:
            study = read_log(path)
        except EventLogError:
            continue
        seconds = [epoch.seconds for trial in study.trials.values() for epoch in trial.epochs]
        if seconds:
            what = "GPU" if study.uses_gpu else "CPU"
            counted = f"median of {len(seconds)} epochs of study {path.parent.name}, {study.devices:g} {what} a trial"
            return Pace(statistics.median(seconds), counted)
    return None


def _newest(path: Path) -> float:
    return path.stat().st_mtime


def _first_record(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
