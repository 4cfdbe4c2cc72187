"""From a study's facts to the files of its report."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from odmt.files import write_atomically
from odmt.tuning.report.card import protocol_card
from odmt.tuning.report.facts import OUTCOMES, Facts
from odmt.tuning.report.frames import epochs_frame, trials_frame
from odmt.tuning.report.importance import importances
from odmt.tuning.report.page import render_page
from odmt.tuning.report.pareto import front, point
from odmt.tuning.report.rung_trust import rung_trust
from odmt.tuning.report.spending import spending
from odmt.tuning.state import Trial

PAGE = "index.html"


@dataclass(frozen=True)
class Report:
    """Everything that is written."""

    summary: dict[str, Any]
    """Plain values: what ``report.json`` holds."""
    trials: pd.DataFrame
    epochs: pd.DataFrame
    page: str


def build_report(facts: Facts) -> Report:
    """Derive a report from a study; the log is read no further."""
    spent, found, trust = spending(facts), importances(facts), rung_trust(facts)
    card = protocol_card(facts, spent)
    last = _last_moment(facts)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    summary = {
        "study": facts.name,
        "study_id": facts.header["study_id"],
        "standing": facts.standing,
        "tainted": facts.study.tainted,
        "made": made,
        "records_up_to": last,
        "dataset": facts.header["dataset"],
        "data_digest": facts.header["data_digest"],
        "objectives": [[item.metric, "max" if item.is_max else "min"] for item in facts.objectives],
        "counts": {outcome: facts.count(outcome) for outcome in OUTCOMES},
        "best": [_entry(facts, trial) for trial in facts.ranked()[:1]],
        "incumbent": [_entry(facts, trial) for trial in facts.trials if trial.source == "incumbent"],
        "pareto_front": [_entry(facts, trial) for trial in front(facts)] if len(facts.objectives) > 1 else [],
        "budget": spent._asdict(),
        "importance": [item._asdict() for item in found],
        "rung_trust": [row._asdict() for row in trust],
        "protocol": card,
    }
    page = render_page(facts, spent, found, trust, card, made, last)
    return Report(finite(summary), trials_frame(facts), epochs_frame(facts), page)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report's files, each whole or not at all, the page last.

    Returns:
        The page, then the others.
    """
    contents = {
        PAGE: report.page,
        "report.json": json.dumps(report.summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "trials.csv": report.trials.to_csv(index=False),
        "epochs.csv": report.epochs.to_csv(index=False),
        "protocol.tex": report.summary["protocol"]["latex"] + "\n",
    }
    for name in reversed(contents):
        write_atomically(folder / name, contents[name].encode("utf-8", "replace"))
        (folder / name).chmod(0o644)  # a report is there to be read by others
    return [folder / name for name in contents]


def finite(value: Any) -> Any:
    """Return plain values with null in the place of numbers that are not finite, which JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def _entry(facts: Facts, trial: Trial) -> dict[str, Any]:
    best = trial.best
    return {
        "trial": trial.trial_id,
        "outcome": facts.outcome(trial),
        "epoch": best.epoch if best is not None else None,
        "objectives": dict(zip([item.metric for item in facts.objectives], point(facts, trial), strict=True)),
        "values": dict(trial.values),
    }


def _last_moment(facts: Facts) -> str | None:
    times = [epoch.time for trial in facts.trials for epoch in trial.epochs]
    times += [trial.ended for trial in facts.trials if trial.ended]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None
