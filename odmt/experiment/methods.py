"""The method, its ablations and the baselines of its evaluation, as settings that differ from the full method's.

Source: Ji et al., ACM MM 2023, arXiv:2308.04067, the tables of baselines and of ablations.
"""

from collections.abc import Mapping

from odmt.config import RunConfig, dotted_values, replace_values
from odmt.config.loading import unknown_key
from odmt.errors import ConfigError

FULL_METHOD = "odmt"

METHODS: Mapping[str, Mapping[str, object]] = {
    "id": {"model.item_encoder": "id", "model.id_init": "random", "model.id_dim": None},
    "text": {"model.item_encoder": "text"},
    "image": {"model.item_encoder": "image"},
    "early-sum": {"model.item_encoder": "early-sum"},
    "early-concat": {"model.item_encoder": "early-concat"},
    "non-invasive": {"model.item_encoder": "non-invasive"},
    "late": {"model.item_encoder": "late", "distill.weight": 0.0},
    "odmt -imt": {"model.item_encoder": "late"},
    "odmt -kd": {"distill.weight": 0.0},
    "odmt -mask": {"fusion.id_masking": False},
    FULL_METHOD: {},
}
"""By name, the values that make the full method's configuration this one's. Encoders of one branch have nothing to
distil, so the distillation's settings stay where they are."""


def with_method(config: RunConfig, name: str) -> RunConfig:
    """Return a full method's configuration as one of ``METHODS``; all else stays.

    Raises:
        ConfigError: there is no such method, or the configuration is not the full method's, so that a method would be
            compared with something else under its name.
    """
    if name not in METHODS:
        raise ConfigError("method", [f"{unknown_key(name, METHODS)}; there are {', '.join(METHODS)}"])
    values = dotted_values(config)
    full = {
        "model.item_encoder": values["model.item_encoder"] == "imt",
        "fusion.id_masking": values["fusion.id_masking"],
        "distill.weight": values["distill.weight"] > 0,
    }
    problems = [f"{path}: {values[path]!r} is not the full method's" for path, holds in full.items() if not holds]
    if problems:
        raise ConfigError(f"method {name}", problems)
    return replace_values(config, METHODS[name], f"method {name}")
