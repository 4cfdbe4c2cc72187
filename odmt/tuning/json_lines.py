"""What a search does, as one JSON object a line, for machines."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from odmt.tuning.state import Study, Trial
from odmt.tuning.study import StudyView


class JsonLines:
    """A listener of the event log that tells the events that matter."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        """Tell each line, without its newline, to ``write``."""
        self._write = write

    def __call__(self, study: Study, record: Mapping[str, Any]) -> None:
        """Tell an event, if it matters."""
        kind, trial = record["kind"], study.trials.get(record.get("trial", ""))
        if kind == "opened":
            self.tell(
                "opened",
                study=study.header["study"],
                dataset=study.header["dataset"],
                trials=study.budget,
                ended=study.num_ended,
                host=record["host"],
                cpus_per_trial=record["cpus"],
                gpus_per_trial=record["gpus"],
                trials_at_once=record["concurrent"],
            )
        elif kind == "started" and trial is not None:
            self.tell("trial_started", trial=trial.trial_id, attempt=trial.attempt, values=dict(trial.values))
        elif kind in ("epoch", "ended") and trial is not None and trial.is_ended:
            self.tell("trial_ended", **_ended(trial))
        elif kind == "setback":
            names = ("trial", "attempt", "what", "reason", "host", "retry")
            self.tell("setback", **{name: record.get(name) for name in names})
        elif kind == "aside":
            self.tell("host_aside", host=record["host"], reason=record["reason"])
        elif kind == "limit":
            self.tell("limit", what=record["what"], used_hours=record["used"], allowed_hours=record["allowed"])
        elif kind == "tainted":
            self.tell("tainted", reason=record["reason"])

    def finished(self, study: StudyView) -> None:
        """Tell how a study that has ended stands."""
        best = study.best
        self.tell(
            "finished",
            study=study.name,
            trials=len(study.trials),
            **{state: study.count(state) for state in ("completed", "stopped", "failed")},
            limit=study.limit,
            exhausted=study.exhausted,
            best_trial=best.trial_id if best else None,
            best=best.best_value if best else None,
            best_epoch=best.best_epoch if best else None,
            best_values=best.values if best else None,
            hours=study.seconds_used / 3600,
            device=study.device,
            device_hours=study.device_hours,
            setbacks=study.setbacks,
            reused=study.reused,
            epochs_redone=study.epochs_redone,
        )

    def tell(self, event: str, **fields: Any) -> None:
        """Write one line; what is no finite number becomes null."""
        self._write(json.dumps({"event": event, **{name: _plain(value) for name, value in fields.items()}}))


def _ended(trial: Trial) -> dict[str, Any]:
    best = trial.best
    return {
        "trial": trial.trial_id,
        "outcome": trial.state,
        "epochs": len(trial.epochs),
        "best": best.value if best else None,
        "best_epoch": best.epoch if best else None,
        "values": dict(trial.values),
        "reason": trial.reason,
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
