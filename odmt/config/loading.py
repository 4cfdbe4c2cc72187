"""From YAML to sections: strict, with every problem told at once and the nearest right key named."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from odmt.config.base import Section
from odmt.errors import ConfigError

SectionT = TypeVar("SectionT", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds something else than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(path, [f"cannot be read: {reason}"]) from error
    from odmt.config.strict_yaml import parse_yaml  # training and evaluation run where there is no yaml

    value = parse_yaml(text, path)
    if not isinstance(value, dict):
        raise ConfigError(path, [f"expected a mapping at the top level, got {_shown(value)}"])
    return value


def from_mapping(cls: type[SectionT], mapping: Mapping[str, Any], where: str | Path) -> SectionT:
    """Build a section, its nested sections included, from plain values.

    Raises:
        ConfigError: unknown keys, wrong types and every problem that the sections themselves find.
    """
    problems: list[str] = []
    section = _build(cls, mapping, "", problems)
    if problems or section is None:
        raise ConfigError(where, problems)
    return section


def to_mapping(section: Section) -> dict[str, Any]:
    """Return the section as nested plain values; ``from_mapping`` gives the same section back."""
    return dataclasses.asdict(section)


def dotted_values(section: Section, prefix: str = "") -> dict[str, Any]:
    """Return the section's values as one flat mapping, keys as dotted paths."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if isinstance(value, Section):
            values.update(dotted_values(value, f"{prefix}{item.name}."))
        else:
            values[prefix + item.name] = value
    return values


def replace_values(section: SectionT, values: Mapping[str, Any], where: str | Path) -> SectionT:
    """Return the section with some dotted paths set to other values.

    Raises:
        ConfigError: an unknown path, a wrong type, or a problem of the resulting section.
    """
    mapping = to_mapping(section)
    problems: list[str] = []
    known = dotted_values(section)
    for path, value in values.items():
        if path not in known:
            problems.append(unknown_key(path, known))
            continue
        node = mapping
        *parents, name = path.split(".")
        for parent in parents:
            node = node[parent]
        node[name] = value
    if problems:
        raise ConfigError(where, problems)
    return from_mapping(type(section), mapping, where)


def unknown_key(key: str, known: typing.Iterable[str]) -> str:
    """Return the sentence for a key that does not exist, with the nearest one that does."""
    *parents, name = key.split(".")
    shown = list(known)
    near = difflib.get_close_matches(key, shown, n=1, cutoff=0.75)
    if not near:
        near = difflib.get_close_matches(name, [item.rsplit(".", 1)[-1] for item in shown], n=1)
    if not near:
        return f"{key}: unknown key"
    same_place = near[0].startswith(".".join(parents))
    return f"{key}: unknown key; did you mean {near[0].rsplit('.', 1)[-1] if same_place else near[0]}?"


def _build(cls: type[SectionT], mapping: Any, prefix: str, problems: list[str]) -> SectionT | None:
    if not isinstance(mapping, Mapping):
        problems.append(f"{prefix.rstrip('.') or 'top level'}: expected a mapping, got {_shown(mapping)}")
        return None
    hints = typing.get_type_hints(cls)
    names = [item.name for item in dataclasses.fields(cls)]
    before = len(problems)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in names:
            problems.append(unknown_key(f"{prefix}{key}", [prefix + name for name in names]))
        elif isinstance(hints[key], type) and issubclass(hints[key], Section):
            values[key] = _build(hints[key], value, f"{prefix}{key}.", problems)
        else:
            checked, problem = check_type(value, hints[key])
            if problem:
                problems.append(f"{prefix}{key}: {problem}")
            values[key] = checked
    if len(problems) > before:
        return None
    section = cls(**values)
    problems.extend(f"{prefix}{problem}" for problem in section.problems())
    return section


def check_type(value: Any, hint: Any) -> tuple[Any, str | None]:
    """Return the value as the annotated type, or a sentence that says why it is not one."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        options = typing.get_args(hint)
        if value in options and type(value) in {type(option) for option in options}:
            return value, None
        return value, f"expected one of {', '.join(map(str, options))}, got {_shown(value)}"
    if origin in (Union, types.UnionType):
        inner = [option for option in typing.get_args(hint) if option is not types.NoneType]
        return (None, None) if value is None else check_type(value, inner[0])
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), None
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value, None
    if hint in (bool, str, dict, list) and isinstance(value, hint):
        return value, None
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return value, f"expected {words.get(hint, 'another type')}, got {_shown(value)}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def parse_assignments(assignments: typing.Sequence[str], where: str = "--set") -> dict[str, Any]:
    """Read ``key=value`` texts; values are YAML scalars or lists.

    Raises:
        ConfigError: no ``=``, an empty key, a repeated key or a value that is not YAML.
    """
    from odmt.config.strict_yaml import parse_yaml

    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(where, [f"{text!r} is not key=value"])
        if key in values:
            raise ConfigError(where, [f"{key} is given twice"])
        values[key] = parse_yaml(value, f"{where} {key}")
    return values
