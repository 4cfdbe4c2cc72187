"""What is done about an attempt that ended badly: tried again or not, after what wait, on which hosts. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from odmt.tuning.sections import ResourcesConfig
from odmt.tuning.state import Study, Trial

QUICK_SECONDS = 60.0
QUICK_FAILURES = 3
LONGEST_WAIT_SECONDS = 300.0
DISK = "disk"
"""What is said of an attempt that could not save: the search stops, and goes on once there is room."""
LESS_MEMORY = "train.recompute_items"
"""Set for the attempt after out-of-memory: the same loss and gradients in less memory."""


@dataclass(frozen=True)
class Again:
    """Another attempt."""

    wait_seconds: float
    adjust: Mapping[str, Any] = field(default_factory=dict)


def another_attempt(study: Study, trial: Trial, what: str, resources: ResourcesConfig) -> Again | None:
    """Return how a trial is tried again after a setback, or None where it has failed.

    Out of memory: once more, in less memory. A worker that died or hung: up to ``max_retries`` times. A full disk: the
    trial has no part in it. An error of the trial itself would come again.
    """
    if what == DISK:
        return Again(0.0)
    earlier = [record["what"] for record in study.setbacks if record["trial"] == trial.trial_id]
    if what == "oom":
        section, name = LESS_MEMORY.split(".")
        in_less = trial.adjust.get(LESS_MEMORY, trial.config.get(section, {}).get(name, False))
        return None if in_less or "oom" in earlier else Again(0.0, {LESS_MEMORY: True})
    if what not in ("died", "hung"):
        return None
    tries = sum(kind in ("died", "hung") for kind in earlier)
    if tries >= resources.max_retries:
        return None
    return Again(min(LONGEST_WAIT_SECONDS, resources.retry_wait_seconds * 2**tries))


def last_setback(study: Study, trial: Trial) -> Mapping[str, Any] | None:
    """Return the setback that ended a trial's last attempt, or None where that attempt was only interrupted."""
    of_trial = (record for record in reversed(study.setbacks) if record["trial"] == trial.trial_id)
    last = next(of_trial, None)
    return last if last is not None and last["attempt"] == trial.attempt else None


def host_to_put_aside(study: Study, host: str) -> str | None:
    """Return why a host is to get no more trials, or None: its last three attempts all died or hung at once.

    At once: within a minute and without an epoch. An epoch from there meanwhile clears the host. The attempts are of
    two trials at least: one trial that dies wherever it runs is not the host's fault.
    """
    if host in study.aside:
        return None
    last_epoch = max(
        (epoch.time for trial in study.trials.values() for epoch in trial.epochs if epoch.host == host), default=0.0
    )
    quick = [
        record
        for record in study.setbacks
        if record["host"] == host
        and record["what"] in ("died", "hung")
        and record["time"] > last_epoch
        and record["quick"]
    ]
    if len(quick) < QUICK_FAILURES or len({record["trial"] for record in quick}) < 2:
        return None
    return f"{len(quick)} attempts in a row ended within {QUICK_SECONDS:.0f} s there, the last: {quick[-1]['reason']}"
