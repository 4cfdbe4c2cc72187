"""The protocol card: everything a reader of a paper needs to judge, or to repeat, a search."""

from collections.abc import Iterator
from typing import Any

from odmt.config import RunConfig, dotted_values
from odmt.tuning.report.facts import Facts
from odmt.tuning.report.latex import protocol_tex
from odmt.tuning.report.rung_trust import study_rungs
from odmt.tuning.report.spending import Spending
from odmt.tuning.report.words import axis_range, condition_in_words, flat, hours, shown
from odmt.tuning.sections import READ_BY
from odmt.tuning.wording import counted


def protocol_card(facts: Facts, spent: Spending) -> dict[str, Any]:
    """Return the card as plain values: ``axes``, ``fixed``, ``facts`` (name, value, in_tex) and ``latex``."""
    card: dict[str, Any] = {
        "study": facts.name,
        "axes": list(_axes(facts)),
        "fixed": list(_fixed(facts)),
        "facts": [
            {"name": name, "value": value, "in_tex": in_tex}
            for name, value, in_tex in (*_what(facts), *_how(facts), *_how_much(facts, spent), *_with_what(facts))
            if value
        ],
    }
    return card | {"latex": protocol_tex(card)}


def _axes(facts: Facts) -> Iterator[dict[str, str]]:
    best = facts.best
    for path, axis in facts.axes.items():
        resting = facts.identity["resting"].get(path)
        yield {
            "path": path,
            "kind": axis.kind,
            "range": axis_range(axis),
            "condition": condition_in_words(axis),
            "otherwise": shown(resting) if axis.when else "",
            "incumbent": shown(facts.identity["incumbent"].get(path)),
            "best": shown(best.values.get(path)) if best is not None else "–",
        }


def _fixed(facts: Facts) -> Iterator[dict[str, str]]:
    """Yield the settings that no axis searches and that differ from the defaults."""
    defaults = dotted_values(RunConfig())
    for path, value in flat(facts.identity["config"]):
        if path not in facts.axes and (path not in defaults or _plain(defaults[path]) != _plain(value)):
            default = shown(defaults[path]) if path in defaults else "not a setting of this version"
            yield {"path": path, "value": shown(value), "default": default}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _what(facts: Facts) -> Iterator[tuple[str, str, bool]]:
    header = facts.header
    first, *others = facts.objectives
    yield "study", f"{facts.name} ({header['study_id']})", False
    yield "standing", facts.standing if not facts.study.tainted else f"tainted: {facts.study.tainted}", False
    yield "data set", header["dataset"], True
    yield "data digest", header["data_digest"], True
    yield "space", f"{header['space']} (digest {header['digest'][:16]})", True
    split = "validation split; the test split is not read by a search"
    yield "selection metric", f"{first.in_words}, best epoch of a trial, {split}", True
    yield "further objectives", "; ".join(other.in_words for other in others), True


def _how(facts: Facts) -> Iterator[tuple[str, str, bool]]:
    yield "sampler", _settings(facts.identity["sampler"]), True
    yield "scheduler", _settings(facts.identity["scheduler"]), True
    yield "rungs (epochs)", ", ".join(map(str, study_rungs(facts))) or "none", True
    train = facts.identity["config"]["train"]
    searched = "searched" if "train.seed" in facts.axes else str(train["seed"])
    yield "seeds", f"search {facts.header['seed']}, training {searched}", True
    longest = "searched" if "train.max_epochs" in facts.axes else str(train["max_epochs"])
    yield "epochs of a trial, at most", longest, True
    sentinels = sum(trial.sentinel for trial in facts.trials)
    yield "sentinel trials (never stopped)", str(sentinels) if sentinels else "", True
    yield "first trial", "the incumbent" if any(trial.source == "incumbent" for trial in facts.trials) else "", True
    yield "warm start from", ", ".join(map(str, facts.header.get("warm_start") or ())), True


def _how_much(facts: Facts, spent: Spending) -> Iterator[tuple[str, str, bool]]:
    extended = f" (begun with {spent.trials_first_planned})"
    yield (
        "budget",
        f"{spent.trials_planned} trials{extended if spent.trials_planned != spent.trials_first_planned else ''}"
        + (f", {hours(spent.wall_hours_allowed)} of wall time" if spent.wall_hours_allowed is not None else "")
        + (f", {hours(spent.device_hours_allowed)} of {spent.device} time" if spent.device_hours_allowed else ""),
        True,
    )
    counts = ", ".join(f"{facts.count(name)} {name}" for name in ("completed", "stopped", "failed"))
    left = spent.trials_proposed - spent.trials_ended
    yield "trials", counts + (f", {left} without an outcome" if left else ""), True
    cost = f"{hours(spent.wall_hours)} of wall time, {hours(spent.device_hours)} of {spent.device} time"
    yield "spent", f"{cost}, {spent.epochs_run + spent.epochs_redone} epochs", True
    reserved = {
        f"{counted(opened['cpus'], 'CPU')} and {counted(opened['gpus'], 'GPU')} a trial, "
        f"{opened['concurrent']} at once": None
        for opened in facts.opened
    }
    yield "resources", "; ".join(reserved), True


def _with_what(facts: Facts) -> Iterator[tuple[str, str, bool]]:
    hosts = dict.fromkeys(str(opened["host"]) for opened in facts.opened if opened.get("host"))
    codes = [facts.header.get("code"), *(opened.get("code") for opened in facts.opened)]
    yield "code version", ", ".join(dict.fromkeys(str(code) for code in codes if code)) or "not recorded", True
    yield "libraries", ", ".join(f"{name} {version}" for name, version in facts.header["versions"].items()), True
    yield "hosts of the driver", ", ".join(hosts), False


def _settings(mapping: dict[str, Any]) -> str:
    """Return a section's settings, its name first; what is not set, or not read under that name, is left out."""
    name = str(mapping["name"])
    told = {key: value for key, value in mapping.items() if key != "name" and value is not None}
    others = ", ".join(f"{key} {shown(value)}" for key, value in told.items() if name in READ_BY.get(key, (name,)))
    return f"{name} ({others})" if others else name
