"""From a space file to a checked Space, with every problem told at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from odmt.config import PrepareConfig, RunConfig, Section, dotted_values, from_mapping, read_yaml
from odmt.config.loading import parse_assignments, unknown_key
from odmt.errors import ConfigError
from odmt.home import CHECKOUT
from odmt.tuning.axes import Axis, read_axis
from odmt.tuning.objectives import read_objectives
from odmt.tuning.sections import SECTIONS, BudgetConfig, ResourcesConfig, SamplerConfig, SchedulerConfig
from odmt.tuning.space import Space
from odmt.tuning.space_checks import space_problems

SectionT = TypeVar("SectionT", bound=Section)
SHIPPED = CHECKOUT / "search_spaces"
_KEYS = ("description", "fixed", "incumbent", "axes", "objectives", *SECTIONS)
_DEFAULTS = dotted_values(RunConfig())


def find_space(name_or_path: str) -> Path:
    """Return the file of a space.

    Raises:
        ConfigError: no such file; names the shipped spaces.
    """
    is_path = "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path).expanduser() if is_path else SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(item.stem for item in SHIPPED.glob("*.yaml"))) or "none"
        what = f"there is no file {path}" if is_path else f"there is no space {name_or_path!r}"
        raise ConfigError("--space", [f"{what}; shipped spaces: {shipped}; a path to a YAML file works too"])
    return path


def read_space(name_or_path: str, assignments: Sequence[str], *, preparing: bool = False) -> Space:
    """Load a space; see ``odmt.tuning.space.load_space``."""
    path = find_space(name_or_path)
    raw = read_yaml(path)
    sets = parse_assignments(assignments)
    problems = [unknown_key(key, _KEYS) for key in raw if key not in _KEYS]
    mappings = {key: _mapping(raw, key, problems) for key in _KEYS if key != "description"}
    description = raw.get("description", "")
    if not isinstance(description, str):
        problems.append(f"description: expected text, got {description!r}")
    problems += _set_problems(sets)
    if not preparing:
        problems += [f"--set {key}: only prepare.py reads it" for key in sets if key.startswith("prepare.")]
    sampler = _section(SamplerConfig, "sampler", mappings["sampler"], sets, problems)
    scheduler = _section(SchedulerConfig, "scheduler", mappings["scheduler"], sets, problems)
    budget = _section(BudgetConfig, "budget", mappings["budget"], sets, problems)
    resources = _section(ResourcesConfig, "resources", mappings["resources"], sets, problems)
    prepare = _section(PrepareConfig, "prepare", mappings["prepare"], sets, problems)
    objectives = read_objectives(mappings["objectives"], problems)
    axes = _read_axes(mappings["axes"], sets, problems)
    fixed = _fixed_values(mappings["fixed"], problems)
    for name, axis in axes.items():
        if name in fixed and not axis.when:
            problems.append(f"{name}: is both fixed and an axis")
    incumbent = {key: value for key, value in mappings["incumbent"].items() if key not in sets}
    problems += _incumbent_key_problems(incumbent, axes)
    values = {**fixed, **{key: value for key, value in sets.items() if key in _DEFAULTS}}
    base = _base(
        path,
        values,
        {key: value for key, value in incumbent.items() if key in axes and axes[key].holds(value)},
        problems,
    )
    if problems or base is None:
        raise ConfigError(path, problems)
    space = Space(
        name=path.stem,
        path=path,
        description=description,
        base=base,
        axes=axes,
        resting={key: values.get(key, _DEFAULTS[key]) for key, axis in axes.items() if axis.when},
        incumbent=incumbent,
        sampler=sampler,
        scheduler=scheduler,
        budget=budget,
        resources=resources,
        prepare=prepare,
        objectives=objectives,
    )
    problems = space_problems(space, lenient=bool(sets))
    if problems:
        raise ConfigError(path, problems)
    return space


def _mapping(raw: Mapping[str, Any], key: str, problems: list[str]) -> Mapping[str, Any]:
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        problems.append(f"{key}: expected a mapping, got {value!r}")
        return {}
    return value


def _set_problems(sets: Mapping[str, Any]) -> list[str]:
    known = [*_DEFAULTS, *(f"{name}.{key}" for name, cls in SECTIONS.items() for key in dotted_values(cls()))]
    return [f"--set {unknown_key(key, known)}" for key in sets if key not in known]


def _section(
    cls: type[SectionT], name: str, mapping: Mapping[str, Any], sets: Mapping[str, Any], problems: list[str]
) -> SectionT:
    known = dotted_values(cls())
    given = {key.partition(".")[2]: value for key, value in sets.items() if key.startswith(f"{name}.")}
    merged = {**mapping, **{key: value for key, value in given.items() if key in known}}
    if name == "resources" and merged.get("gpus_per_trial") == "auto":
        merged["gpus_per_trial"] = None
    try:
        return from_mapping(cls, merged, name)
    except ConfigError as error:
        problems += [f"{name}.{problem}" for problem in error.problems]
        return cls()


def _fixed_values(mapping: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Flatten ``fixed`` to dotted values; unknown keys become problems."""
    values: dict[str, Any] = {}

    def visit(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            path = f"{prefix}{key}"
            inside = [known for known in _DEFAULTS if known.startswith(f"{path}.")]
            if path in _DEFAULTS:
                values[path] = value
            elif inside and isinstance(value, Mapping):
                visit(value, f"{path}.")
            elif inside:
                problems.append(f"{path}: expected a mapping, got {value!r}")
            else:
                siblings = {
                    prefix + known[len(prefix) :].split(".")[0] for known in _DEFAULTS if known.startswith(prefix)
                }
                problems.append(unknown_key(path, sorted(siblings)))

    visit(mapping, "")
    return values


def _read_axes(mapping: Mapping[str, Any], sets: Mapping[str, Any], problems: list[str]) -> dict[str, Axis]:
    axes: dict[str, Axis] = {}
    for path, raw in mapping.items():
        axis = read_axis(path, raw, problems)
        if path not in _DEFAULTS:
            problems.append(f"axes.{unknown_key(path, _DEFAULTS)}")
        elif path in ("train.max_epochs", "train.data_parallel") or path.startswith("checkpoint."):
            problems.append(f"axes.{path}: cannot be searched; set it under fixed")
        elif axis is not None and path.startswith(("data.", "features.")) and axis.kind != "choice":
            problems.append(f"axes.{path}: only choice is possible here, since each value is loaded before the start")
        elif axis is not None and path not in sets:
            axes[path] = axis
    return _ordered(axes, mapping, problems)


def _ordered(axes: dict[str, Axis], written: Mapping[str, Any], problems: list[str]) -> dict[str, Axis]:
    """Put every axis after the ones its condition names."""
    for path, axis in axes.items():
        for parent, allowed in axis.when.items():
            if parent not in _DEFAULTS:
                problems.append(f"axes.{path}.when.{unknown_key(parent, _DEFAULTS)}")
            elif parent in axes:
                missing = [value for value in allowed if not axes[parent].holds(value)]
                problems += [
                    f"axes.{path}.when.{parent}: {value!r} is not {axes[parent].shown_range()}" for value in missing
                ]
    ordered: dict[str, Axis] = {}
    waiting = dict(axes)
    while waiting:
        ready = next(
            (p for p, axis in waiting.items() if all(q in ordered or q not in waiting for q in axis.when)), None
        )
        if ready is None:
            problems.append(f"axes: the conditions of {', '.join(waiting)} depend on each other")
            break
        ordered[ready] = waiting.pop(ready)
    return ordered


def _incumbent_key_problems(incumbent: Mapping[str, Any], axes: Mapping[str, Axis]) -> list[str]:
    found = []
    for key, value in incumbent.items():
        if key not in axes:
            found.append(
                f"incumbent.{unknown_key(key, axes)}" if key not in _DEFAULTS else f"incumbent.{key}: is no axis"
            )
        elif not axes[key].holds(value):
            found.append(f"incumbent.{key}: {value!r} is not {axes[key].shown_range()}")
    return found


def _base(path: Path, values: Mapping[str, Any], incumbent: Mapping[str, Any], problems: list[str]) -> RunConfig | None:
    nested: dict[str, Any] = {}
    for key, value in {**values, **incumbent}.items():
        node = nested
        *parents, name = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    try:
        return from_mapping(RunConfig, nested, path)
    except ConfigError as error:
        problems += error.problems
        return None
