"""Check a space at both ends of every axis and in every branch, before anything starts."""

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from odmt.config import Section
from odmt.config.loading import check_type
from odmt.tuning.axes import same
from odmt.tuning.scheduler import rungs
from odmt.tuning.space import Space
from odmt.tuning.trials import METRIC

_LARGEST_PRODUCT = 1000
_SHOWN = 12


def space_problems(space: Space, lenient: bool) -> list[str]:
    """Return what is wrong with the incumbent, the branches, the ends and their combinations.

    Args:
        space: the space, whose parts are well-formed.
        lenient: ``--set`` was given: an axis or an incumbent's value may have become pointless by it.
    """
    problems = [
        *_type_problems(space),
        *_incumbent_problems(space, lenient),
        *_branch_problems(space, lenient),
        *_study_problems(space),
    ]
    if problems:
        return problems
    found = list(_joint_problems(space))
    more = [f"... and {len(found) - _SHOWN} more combinations"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more


def _incumbent_problems(space: Space, lenient: bool) -> Iterator[str]:
    known = dict(space.incumbent)
    active: list[str] = []
    for path, axis in space.axes.items():
        if not space.is_active(axis, known, active):
            continue
        if path in known:
            active.append(path)
        else:
            yield f"incumbent.{path}: no value; the first trial needs one"
    for path in space.incumbent:
        if path in space.axes and path not in active and not lenient:
            yield f"incumbent.{path}: this axis does not exist at the incumbent's other values"


def _branch_problems(space: Space, lenient: bool) -> Iterator[str]:
    for path, axis in space.axes.items():
        if axis.when and not lenient and _reaching(space, {path: axis.probes()[0]}) is None:
            yield f"axes.{path}.when: is never true, so this axis never exists"


def _study_problems(space: Space) -> Iterator[str]:
    yield from _sampler_problems(space)
    if len(space.objectives) > 1 and space.scheduler.name != "none":
        yield (
            f"scheduler.name: {space.scheduler.name} stops trials by {METRIC} alone, which would leave holes in the "
            "front of several objectives; use none"
        )
    if space.scheduler.name != "none" and space.scheduler.grace_period >= space.base.train.max_epochs:
        yield (
            f"scheduler.grace_period: {space.scheduler.grace_period} is not below train.max_epochs "
            f"{space.base.train.max_epochs}, so nothing would ever be stopped; use scheduler.name none for that"
        )
    brackets = space.scheduler.brackets if space.scheduler.name == "asha" else 1
    if brackets > 1 and not rungs(space.scheduler, space.base.train.max_epochs, brackets - 1):
        yield (
            f"scheduler.brackets: bracket {space.scheduler.brackets} of {space.scheduler.brackets} has no rung below "
            f"train.max_epochs {space.base.train.max_epochs}"
        )
    if space.sampler.name == "grid":
        for path, axis in space.axes.items():
            if axis.grid_values() is None:
                yield f"axes.{path}: sampler grid needs a list grid: [...] on a {axis.kind} axis"


def _sampler_problems(space: Space) -> Iterator[str]:
    name = space.sampler.name
    if name == "cmaes" and len(space.objectives) > 1:
        yield "sampler.name: cmaes has one objective; use nsga2, tpe, gp, qmc, random or grid"
    for path, axis in space.axes.items():
        if name == "cmaes" and axis.kind == "choice":
            yield f"axes.{path}: sampler cmaes knows no choice; use a range, fix it, or another sampler"
        if name in ("cmaes", "qmc") and axis.when:
            yield f"axes.{path}.when: sampler {name} knows no conditional axes; fix it, or use tpe, random or grid"


def _type_problems(space: Space) -> Iterator[str]:
    for path, axis in space.axes.items():
        hint: Any = type(space.base)
        for name in path.split("."):
            hint = typing.get_type_hints(hint)[name]
        for value in (*axis.probes(), *axis.grid):
            _, problem = check_type(value, hint)
            if problem:
                yield f"axes.{path}: {problem}"


def _joint_problems(space: Space) -> Iterator[str]:
    """Yield a sentence for every smallest combination of values that makes an impossible configuration."""
    failed: list[dict[str, Any]] = []
    probes = {path: axis.probes() for path, axis in space.axes.items()}
    for size in (1, 2):
        for paths in itertools.combinations(space.axes, size):
            for options in itertools.product(*(probes[path] for path in paths)):
                yield from _combination(space, dict(zip(paths, options, strict=True)), failed)
    listed = [path for path, axis in space.axes.items() if (axis.listed() or ()) == probes[path]]
    if len(listed) > 2 and math.prod(len(probes[path]) for path in listed) <= _LARGEST_PRODUCT:
        for options in itertools.product(*(probes[path] for path in listed)):
            yield from _combination(space, dict(zip(listed, options, strict=True)), failed)


def _combination(space: Space, chosen: dict[str, Any], failed: list[dict[str, Any]]) -> Iterator[str]:
    if any(all(path in chosen and same(chosen[path], value) for path, value in other.items()) for other in failed):
        return
    values = _reaching(space, chosen)
    if values is None:
        return
    settings = {**space.resting, **{path: values[path] for path in space.active_axes(values)}}
    problems = list(_section_problems(_replaced(space.base, settings)))
    if problems:
        failed.append(chosen)
        for problem in problems:
            named = {**chosen, **{path: settings[path] for path in settings if path in problem}}
            yield f"{problem} (at {', '.join(f'{path}={value}' for path, value in named.items())})"


def _reaching(space: Space, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return values for all axes that include the chosen ones with their conditions true, or None."""
    values = dict(chosen)
    waiting = list(chosen)
    while waiting:
        axis = space.axes[waiting.pop()]
        for parent, allowed in axis.when.items():
            if parent not in space.axes:
                continue
            if parent not in values:
                preferred = [v for v in allowed if parent in space.incumbent and same(v, space.incumbent[parent])]
                values[parent] = (preferred or list(allowed))[0]
                waiting.append(parent)
    for path, axis in space.axes.items():
        if path not in values:
            values[path] = space.incumbent.get(path, axis.probes()[0])
    active = space.active_axes(values)
    return values if all(path in active for path in chosen) else None


def _replaced(section: Any, values: Mapping[str, Any]) -> Any:
    """Replace dotted paths without asking ``problems``; types have been checked before."""
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    own |= {head: _replaced(getattr(section, head), inner) for head, inner in nested.items()}
    return dataclasses.replace(section, **own)


def _section_problems(section: Section, prefix: str = "") -> Iterator[str]:
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if isinstance(value, Section):
            yield from _section_problems(value, f"{prefix}{item.name}.")
    yield from (f"{prefix}{problem}" for problem in section.problems())
