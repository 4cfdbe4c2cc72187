"""How a study stands, in words for a screen."""

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from odmt.commands import size as in_megabytes
from odmt.tuning.wording import shown_values


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of ``study.py status``; ``found`` is what ``status.status`` gave."""
    owner = found["owner"]
    by = f" by process {owner['pid']} on {owner['host'] or 'a host'} since {when(owner['since'])}" if owner else ""
    yield f"study {found['study']}: {found['state']}{by}; data set {found['dataset']}, space {found['space_file']}"
    if found["why"]:
        yield f"tainted: {found['why']}"
    counts = ", ".join(f"{number} {name}" for name, number in found["counts"].items())
    exhausted = "; the space is exhausted: all that was left to propose has been tried" if found["exhausted"] else ""
    yield f"trials: {found['ended']} of {found['budget']} have ended: {counts}{exhausted}"
    yield f"proposals that equalled an earlier trial and took its result: {found['reused']}"
    for name, one in found["budgets"].items():
        of = "" if one["allowed"] is None else f" of {one['allowed']:g}, {one['left']:.4g} left"
        yield f"{'trials begun' if name == 'trials' else name}: {one['used']:.4g}{of}"
    if best := found["best"]:
        trial = f"{best['trial']}{'' if best['has_ended'] else ' (no outcome yet)'}"
        yield f"best: {best['value']:.4f} in {trial}, epoch {best['epoch']}: {shown_values(best['values'])}"
    for one in found["rungs"]:
        bracket = f" of bracket {one['bracket']}" if one["bracket"] else ""
        yield f"rung at epoch {one['epoch']}{bracket}: {one['reached']} trials, {one['stopped']} stopped there"
    for one in found["running"]:
        last = "" if one["last"] is None else f", last {one['last']:.4f}"
        yield f"{one['trial']}: epoch {one['epochs']} of {one['max_epochs']}{last}, attempt {one['attempt']}"
    lost = ", ".join(f"{number} {what}" for what, number in found["setbacks"].items()) or "none"
    again = f"resumed {found['resumed']}, epochs redone {found['epochs_redone']}"
    yield f"starts: {found['starts']}, {again}; setbacks: {lost}"
    yield from (f"host {host} is put aside: {reason}" for host, reason in found["aside"].items())
    yield disk(found["log_bytes"], found["trial_bytes"], found["other_bytes"])
    if found["command"] and found["state"] == "interrupted":
        yield f"go on with: {found['command']}"
    elif found["command"] and found["state"] == "budget met":
        yield f"go on with --extend and a larger budget: {found['command']}"


def best_in(row: Mapping[str, Any]) -> str:
    """Say which trial is the best of a study so far; ``row`` is what ``status.row`` gave."""
    if row["best"] is None:
        return ""
    return f"{row['best']:.4f} ({row['best_trial']}{'' if row['best_has_ended'] else ', no outcome yet'})"


def disk(log_bytes: int, trial_bytes: Mapping[str, int], other_bytes: int) -> str:
    """Say what a study takes on disk."""
    largest = max(trial_bytes.items(), key=lambda item: item[1], default=None)
    most = f", the largest {largest[0]} with {size(largest[1])}" if largest else ""
    kept = f"folders of {len(trial_bytes)} trials {size(sum(trial_bytes.values()))}{most}"
    return f"on disk: {kept}; log {size(log_bytes)}, the rest {size(other_bytes)}"


def when(timestamp: float) -> str:
    """Return a time as a clock here shows it."""
    return datetime.datetime.fromtimestamp(timestamp).strftime("%Y-%m-%d %H:%M:%S")


def size(num_bytes: float) -> str:
    """Return an amount of disk in words: 3.1 kB, 12.3 MB, 7.4 GB."""
    return in_megabytes(num_bytes) if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"
