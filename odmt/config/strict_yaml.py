"""YAML read strictly: no repeated keys, no aliases, and ``1e-4`` is a number."""

import re
from pathlib import Path
from typing import Any

import yaml

from odmt.errors import ConfigError

_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")


class _StrictSafeLoader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys and aliases, and reads ``1e-4`` as a number."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is not text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is repeated", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictSafeLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictSafeLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, where: str | Path) -> Any:
    """Parse one YAML document strictly.

    Raises:
        ConfigError: the text is not YAML, repeats a key or uses an alias; names the line.
    """
    try:
        return yaml.load(text, Loader=_StrictSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}" if mark else str(where)
        raise ConfigError(place, [error.problem or "is not YAML"]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(where, [f"is not YAML: {error}"]) from error
