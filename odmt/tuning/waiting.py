"""Trials without an outcome that no worker has: from an interruption, or for another attempt after a setback."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from odmt.tuning.faults import LESS_MEMORY, last_setback
from odmt.tuning.state import Study, Trial


@dataclass
class Waiting:
    """A trial that waits for its next attempt.

    Attributes:
        not_before: of the journal's clock, in seconds.
        adjust: settings that the attempt is given instead of the trial's own.
        failed: why no other attempt follows; the driver before was killed when only the setback was recorded.
    """

    trial_id: str
    not_before: float = 0.0
    adjust: Mapping[str, Any] = field(default_factory=dict)
    failed: str | None = None


def interrupted_before(study: Study, trial: Trial) -> Waiting:
    """Return what the driver before would have done with a trial that it left without an outcome."""
    setback = last_setback(study, trial)
    if setback is not None and not setback["retry"]:
        return Waiting(trial.trial_id, failed=setback["reason"])
    in_less = setback is not None and setback["what"] == "oom"
    return Waiting(trial.trial_id, adjust={LESS_MEMORY: True} if in_less else {})


def adjusted(config: Mapping[str, Any], adjust: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's mapping with some dotted paths set."""
    changed = {name: dict(section) if isinstance(section, Mapping) else section for name, section in config.items()}
    for path, value in adjust.items():
        section, _, name = path.partition(".")
        changed[section][name] = value
    return changed
