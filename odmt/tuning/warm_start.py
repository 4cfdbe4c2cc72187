"""What a study takes over from earlier ones: their best configurations to try first, or all their trials as evidence.

Evidence is what another study measured, told to the sampler as if it had been measured here; so it must have been: the
same data, axes, fixed values and objectives. From any other study, of another data set too, the best configurations are
proposed after the incumbent, each value moved to the nearest one that is possible here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from odmt.config import RunConfig, dotted_values, from_mapping
from odmt.errors import ConfigError, StudyError
from odmt.home import Home
from odmt.tuning.axes import Axis
from odmt.tuning.event_log import read_log
from odmt.tuning.samplers import distributions
from odmt.tuning.space import Space, canonical_json
from odmt.tuning.state import Study, Trial
from odmt.tuning.study import is_folder_name, study_names

SHARE = 4
"""At most one of so many trials of the budget is a proposal of an earlier study."""
_TOLD = ("tpe", "gp")
"""Samplers that learn from trials which they did not propose."""


def warm_records(home: Home, names: Sequence[str], space: Space, data_digest: str) -> list[dict[str, Any]]:
    """Return the ``warm`` records of a new study, one for each earlier study in the order given.

    Raises:
        StudyError: there is no such study, or it has no trial with a value.
        EventLogError: its log is damaged.
    """
    studies = {name: _read(home, name) for name in names}
    agreeing = {name for name, study in studies.items() if agrees(study, space, data_digest)}
    chosen = _proposals({name: study for name, study in studies.items() if name not in agreeing}, space)
    records = []
    for name, study in studies.items():
        trials = _evidence(study, space) if name in agreeing else [trial for owner, trial in chosen if owner == name]
        records.append(
            {
                "study": name,
                "study_id": study.header["study_id"],
                "dataset": study.header["dataset"],
                "data_digest": study.header["data_digest"],
                "mode": "evidence" if name in agreeing else "proposals",
                "trials": trials,
            }
        )
    return records


def check_names(home: Home, names: Sequence[str], own: str) -> None:
    """Refuse earlier studies that a new study cannot begin with; one that has begun asks them nothing any more.

    Raises:
        StudyError: a study is the new one itself, is not there, or has no trial with a value.
    """
    log = home.study(own) / "events.jsonl"
    if log.is_file() and log.stat().st_size:
        return
    for name in names:
        if name == own:
            raise StudyError(
                f"--warm-start: study {name!r} cannot begin with itself; leave it out, or use --study NAME"
            )
        _read(home, name)


def agrees(study: Study, space: Space, data_digest: str) -> bool:
    """Say whether what a study measured is what this space would measure, so that the sampler may be told it."""
    was, now = study.header["identity"], space.identity()
    paths = {path for path, _ in now["axes"]}
    same = [study.header["data_digest"] == data_digest, space.sampler.name in _TOLD, len(space.objectives) == 1]
    for key in ("axes", "resting", "objectives"):
        same.append(canonical_json(was.get(key)) == canonical_json(now[key]))
    fixed = [_without(identity["config"], paths) for identity in (was, now)]
    return all(same) and canonical_json(fixed[0]) == canonical_json(fixed[1])


def ranked(study: Study) -> list[Trial]:
    """Return the trials that have a value, best first."""
    able = [trial for trial in study.trials.values() if trial.state in ("completed", "stopped") and trial.best]
    return sorted(able, key=lambda trial: (-_value(trial), trial.number))


def translated(trial: Trial, space: Space) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return a trial's settings as values of this space's axes.

    Returns:
        The values of all axes, and what had to be changed: ``[there, here]`` by path.
    """
    config = from_mapping(RunConfig, trial.config, f"trial {trial.trial_id}")
    there = dotted_values(config)
    values = {path: nearest(axis, there[path], space.incumbent.get(path)) for path, axis in space.axes.items()}
    active = space.active_axes(values)
    return values, {path: [there[path], values[path]] for path in active if values[path] != there[path]}


def nearest(axis: Axis, value: Any, known: Any) -> Any:
    """Return the value of an axis that is nearest to a setting; of a choice without it the known good one."""
    if axis.holds(value):
        return axis.exact(value)
    if axis.kind == "choice" or isinstance(value, bool) or not isinstance(value, int | float):
        return axis.probes()[0] if known is None else known
    inside = min(max(value, axis.low), axis.high)
    if axis.kind == "quniform":
        inside = axis.low + round((inside - axis.low) / axis.q) * axis.q
        inside = inside if axis.is_whole else round(float(inside), 12)
    return axis.exact(round(inside) if axis.kind in ("int", "logint") else inside)


def _read(home: Home, name: str) -> Study:
    log = home.study(name) / "events.jsonl"
    if not is_folder_name(name) or not log.is_file():
        raise StudyError(f"--warm-start: there is no study {name!r}; studies: {study_names(home.study(name).parent)}")
    study = read_log(log)
    if not ranked(study):
        raise StudyError(f"--warm-start: study {name!r} has no trial with a value yet; let it run, or leave it out")
    return study


def _evidence(study: Study, space: Space) -> list[dict[str, Any]]:
    return [
        {
            "trial": trial.trial_id,
            "values": dict(trial.values),
            # A grid has told none.
            "distributions": dict(trial.distributions) or distributions(space, trial.values),
            "value": _value(trial),
            "code": trial.code,
        }
        for trial in ranked(study)
    ]


def _proposals(studies: Mapping[str, Study], space: Space) -> list[tuple[str, dict[str, Any]]]:
    """Return the best configurations of all studies by rank, each run once; the incumbent is not among them."""
    known = {space.canonical(space.incumbent)}
    chosen: list[tuple[str, dict[str, Any]]] = []
    for name, trial in _by_rank(studies):
        values, changed = translated(trial, space)
        try:
            key = space.canonical(values)
        except ConfigError:
            continue  # its parts are possible here, but not together
        if key in known:
            continue
        known.add(key)
        of_trial = {"trial": trial.trial_id, "values": values, "value": _value(trial), "changed": changed}
        chosen.append((name, {**of_trial, "rank": len(chosen)}))
        if len(chosen) == max(1, space.budget.trials // SHARE):
            break
    return chosen


def _by_rank(studies: Mapping[str, Study]) -> Iterator[tuple[str, Trial]]:
    """Yield the best of each study, then the second of each, and so on."""
    columns = [[(name, trial) for trial in ranked(study)] for name, study in studies.items()]
    return (item for item in chain.from_iterable(zip_longest(*columns)) if item is not None)


def _value(trial: Trial) -> float:
    return trial.best.value if trial.best is not None else math.nan


def _without(config: Mapping[str, Any], paths: set[str], prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            kept[name] = _without(value, paths, f"{path}.")
        elif path not in paths:
            kept[name] = value
    return kept
