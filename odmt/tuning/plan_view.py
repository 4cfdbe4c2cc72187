"""The plan of a search as a person reads it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from odmt.commands import size
from odmt.tuning.axes import Axis
from odmt.tuning.plan import BracketPlan, Plan
from odmt.tuning.planning import Outlook
from odmt.tuning.probe import Probe
from odmt.tuning.room import size_of_checkpoint
from odmt.tuning.space import Space
from odmt.tuning.wording import clock, shown_values


def plan_view(space: Space, name: str, outlook: Outlook, tracking: str, probes: Sequence[Probe] = ()) -> Group:
    """Return the plan of a search.

    Args:
        space: what is searched.
        name: of the study.
        outlook: what was found out.
        tracking: where MLflow is, without credentials.
        probes: what was timed now: the smallest configuration and the largest.
    """
    plan = outlook.plan
    parts: list[Any] = [
        Text(f"plan of study {name}: nothing is trained", style="bold"),
        _lines("study", [outlook.standing]),
        _lines("axes", [_counted(outlook.combinations, len(space.axes))]),
        Padding(axes_table(space), (0, 0, 0, 2)),
        _lines("search", list(_search(space, plan))),
        _lines("stopping", list(_stopping(space, plan))),
        _lines("machine", [outlook.machine, at_once(plan)]),
        _lines("data", [*outlook.inputs.sentences, f"object store: {outlook.store}"]),
        _lines("models", list(_models(outlook))),
        _lines("disk", [f"{room.what}: up to {size(room.needed)}; {size(room.free)} free" for room in outlook.disk]),
        _lines("MLflow", [tracking]),
    ]
    if probes:
        parts.append(_lines("probe", list(_probed(outlook, probes))))
    parts.append(_lines("time", list(time_sentences(plan, probed=bool(probes)))))
    parts += [Text(f"warning: {warning}", style="yellow") for warning in outlook.warnings]
    return Group(*parts)


def axes_table(space: Space) -> Table:
    """Return the axes with their kinds, ranges, first values and conditions."""
    table = Table(box=None, pad_edge=False, show_header=True)
    for column in ("path", "kind", "range", "first trial", "only when"):
        table.add_column(column, overflow="fold", no_wrap=column in ("path", "kind"))
    active = space.active_axes(space.incumbent)
    for path, axis in space.axes.items():
        first = _value(space.incumbent[path]) if path in active else "-"
        table.add_row(path, axis.kind, _range(axis), first, _condition(axis))
    return table


def at_once(plan: Plan) -> str:
    """Return how many trials run at once, in words."""
    each = f"each with {_count(plan.cpus, 'CPU')} and {_count(plan.gpus, 'GPU')}"
    if plan.concurrent is None:
        return f"trials at once: as many as fit, {each}"
    return f"{plan.concurrent} {'trial' if plan.concurrent == 1 else 'trials'} at once, {each}"


def probe_sentence(probe: Probe) -> str:
    """Return what one configuration took, in words."""
    if probe.problem is not None:
        return probe.problem
    return (
        f"{probe.step_seconds:.3g} s a step, {probe.steps} steps and {probe.validation_seconds:.2g} s of "
        f"validation make {probe.epoch_seconds:.3g} s an epoch; peak memory {size(probe.peak_bytes)} on {probe.device}"
    )


def time_sentences(plan: Plan, *, probed: bool) -> Iterator[str]:
    """Yield the expected hours, and which budget ends the search before."""
    pace = plan.pace
    if pace is None:
        yield "unknown: no configuration could be timed" if probed else "unknown: add --probe"
    else:
        yield f"{pace.seconds:.3g} s an epoch: {pace.source}"
        hours, spent = plan.hours(pace.seconds), plan.device_hours(pace.seconds)
        span = ""
        if pace.least is not None and pace.most is not None and hours is not None and pace.least < pace.most:
            span = f" ({clock(hours * 3600 * pace.least / pace.seconds)} if all were the smallest, "
            span += f"{clock(hours * 3600 * pace.most / pace.seconds)} if all were the largest)"
        took = (
            f"about {clock(hours * 3600)}{span}" if hours is not None else "hours unknown: trials at once are not known"
        )
        yield f"{took}, {spent:.3g} {plan.device} hours"
    budgets = [
        f"{name} {value:g}"
        for name, value in (("budget.time_hours", plan.time_hours), ("budget.max_gpu_hours", plan.max_gpu_hours))
        if value is not None
    ]
    if budgets:
        ended = f"; {plan.ended_by} is expected to end it before its trials are through" if plan.ended_by else ""
        yield f"at most {' and '.join(budgets)}{ended}"


def _probed(outlook: Outlook, probes: Sequence[Probe]) -> Iterator[str]:
    """Yield what each configuration took, named by the values in which they differ."""
    both = (outlook.smallest.values, outlook.largest.values)
    differing = [path for path in both[0] if both[0][path] != both[1][path]]
    for label, probe in zip(("smallest", "largest"), probes, strict=True):
        named = shown_values({path: probe.values[path] for path in differing})
        yield f"{label} ({named or 'all are alike'}): {probe_sentence(probe)}"


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}" if number == 1 else f"{number:g} {what}s"


def _lines(title: str, sentences: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=9, no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for place, sentence in enumerate(sentences):
        table.add_row(title if place == 0 else "", Text(sentence))
    return table


def _counted(combinations: int | None, axes: int) -> str:
    return f"{axes}; " + (
        "no end of combinations" if combinations is None else f"{combinations:,} reachable combinations"
    )


def _search(space: Space, plan: Plan) -> Iterator[str]:
    fewer = f", as many as there are combinations (budget {space.budget.trials})"
    yield (
        f"{plan.trials} trials of {plan.max_epochs} epochs{fewer if plan.trials < space.budget.trials else ''}; "
        f"sampler {space.sampler.name}, seed {space.sampler.seed}"
    )
    if len(space.objectives) > 1:
        yield "objectives: " + ", ".join(f"{name} ({mode})" for name, mode in space.objectives.items())


def _stopping(space: Space, plan: Plan) -> Iterator[str]:
    scheduler = space.scheduler
    kept = f"; {plan.sentinels} sentinels run to the end whatever their rungs say" if plan.sentinels else ""
    if scheduler.name == "asha":
        yield f"asha: the best 1/{scheduler.reduction_factor:g} go on from each rung{kept}"
        for number, bracket in enumerate(plan.brackets):
            yield _rungs(bracket, plan.max_epochs, f"bracket {number}: " if len(plan.brackets) > 1 else "")
        share = plan.epochs / plan.epochs_of_all
        yield f"about {plan.epochs:,.0f} epochs instead of {plan.epochs_of_all:,} with all to the end ({share:.0%})"
    elif scheduler.name == "median":
        yield f"median: from epoch {scheduler.grace_period} on; how many it stops is not predicted{kept}"
        yield f"at most {plan.epochs_of_all:,} epochs"
    else:
        yield f"none: every trial runs to its end, {plan.epochs_of_all:,} epochs"


def _rungs(bracket: BracketPlan, max_epochs: int, label: str) -> str:
    points = [*bracket.rungs, (max_epochs, bracket.completed)]
    return label + ", ".join(f"epoch {epoch}: {_trials(trials)}" for epoch, trials in points)


def _trials(number: float) -> str:
    rounded = f"{number:.0f}" if number >= 10 or math.isclose(number, round(number)) else f"{number:.1f}"
    return _count(float(rounded), "trial")


def _models(outlook: Outlook) -> Iterator[str]:
    for label, extreme in (("smallest", outlook.smallest), ("largest", outlook.largest)):
        state = size(size_of_checkpoint(extreme.parameters))
        yield f"{label}: {extreme.parameters:,} parameters, {state} a checkpoint with Adam's moments"


def _range(axis: Axis) -> str:
    if axis.kind == "choice":
        return ", ".join(map(_value, axis.values))
    step = f" by {axis.q:g}" if axis.kind == "quniform" else ""
    return f"{axis.low:g} to {axis.high:g}{step}"


def _condition(axis: Axis) -> str:
    return "; ".join(f"{path} is {' or '.join(map(_value, values))}" for path, values in axis.when.items())


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
