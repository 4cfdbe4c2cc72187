"""Studies as others read them: no Ray, Optuna, torch or MLflow is imported here."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odmt.config import RunConfig, from_mapping
from odmt.errors import StudyError
from odmt.home import Home
from odmt.tuning.budget import device_hours, seconds_used
from odmt.tuning.event_log import is_owned, read_log
from odmt.tuning.state import Study, Trial


@dataclass(frozen=True)
class TrialView:
    """One trial of a study."""

    trial_id: str
    number: int
    values: dict[str, Any]
    config: RunConfig
    state: str
    """``running``, ``completed``, ``stopped``, ``failed``, or ``killed``: interrupted, to be continued."""
    epochs: list[tuple[int, dict[str, float]]]
    best_epoch: int | None
    best_value: float | None
    best_checkpoint: Path | None
    reason: str | None
    attempts: int = 1


@dataclass(frozen=True)
class StudyView:
    """What the event log says about a study."""

    name: str
    study_id: str
    space_name: str
    dataset: str
    data_digest: str
    run_digests: tuple[str, ...]
    """What ``arrays_digest`` gave for the configurations of its trials."""
    trials: list[TrialView]
    finished: bool
    budget: int = 0
    exhausted: bool = False
    tainted: str | None = None
    limit: str | None = None
    """The budget that ended the search: ``time`` or ``gpu-hours``."""
    hours_allowed: float | None = None
    gpu_hours_allowed: float | None = None
    seconds_used: float = 0.0
    device: str = "CPU"
    """What ``device_hours`` counts: ``GPU``, or ``CPU`` where trials reserve no GPU."""
    device_hours: float = 0.0
    setbacks: int = 0
    """Attempts that ended badly without ending their trial, or ended it for no fault of its values."""
    setback_kinds: Mapping[str, int] = field(default_factory=dict)
    """How many of them were ``oom``, ``died``, ``hung``, ``disk``."""
    reused: int = 0
    """Proposals that equalled an earlier trial and took over its result."""
    resumed: int = 0
    epochs_redone: int = 0

    @property
    def best(self) -> TrialView | None:
        """The completed or stopped trial with the highest validation metric; the first of equals."""
        able = [trial for trial in self.trials if trial.state in ("completed", "stopped")]
        scored = [(trial.best_value, -trial.number, trial) for trial in able if trial.best_value is not None]
        return max(scored, key=lambda item: item[:2])[2] if scored else None

    def count(self, state: str) -> int:
        """Return how many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)


def read_study(home: Home, name: str) -> StudyView:
    """Read a study from its event log, whether or not a driver is running it.

    Raises:
        StudyError: there is no such study, or it is no name; names those that exist.
        EventLogError: its log is damaged.
    """
    check_name(home, name)
    folder = home.study(name)
    log = folder / "events.jsonl"
    study = read_log(log) if log.is_file() else Study()
    if not study.header:
        raise StudyError(f"there is no study {name!r} under {folder.parent}; studies: {study_names(folder.parent)}")
    return view(name, study, running=is_owned(folder))


def view(name: str, study: Study, *, running: bool) -> StudyView:
    """Return a folded log in the form for readers; ``running``: a driver owns it."""
    now = study.last_time or 0.0  # a driver that only begins has used nothing since
    return StudyView(
        name=name,
        study_id=study.header["study_id"],
        space_name=study.header["space"],
        dataset=study.header["dataset"],
        data_digest=study.header["data_digest"],
        run_digests=tuple(study.header["run_digests"]),
        trials=[_trial_view(trial, running) for trial in study.trials.values()],
        finished=study.finished,
        budget=study.budget,
        exhausted=study.exhausted,
        tainted=study.tainted,
        limit=study.limit,
        hours_allowed=None if study.seconds_allowed is None else study.seconds_allowed / 3600,
        gpu_hours_allowed=study.gpu_hours_allowed,
        seconds_used=seconds_used(study, now),
        device="GPU" if study.uses_gpu else "CPU",
        device_hours=device_hours(study, now),
        setbacks=len(study.setbacks),
        setback_kinds=Counter(record["what"] for record in study.setbacks),
        reused=len(study.reused),
        resumed=study.resumed,
        epochs_redone=study.epochs_redone,
    )


def best_checkpoint(trial: Trial) -> Path | None:
    """Return the checkpoint of a trial's best epoch, if it was saved and is still there."""
    best = trial.best
    if best is None or best.checkpoint is None:
        return None
    path = Path(best.checkpoint)
    if path.is_dir():
        return path
    again = sorted(path.parent.glob(f"e{best.epoch:06d}-*"))  # saved again by a later attempt
    return again[-1] if again else None


def _trial_view(trial: Trial, running: bool) -> TrialView:
    best = trial.best
    return TrialView(
        trial_id=trial.trial_id,
        number=trial.number,
        values=dict(trial.values),
        config=from_mapping(RunConfig, trial.config, f"trial {trial.trial_id}"),
        state=trial.state if trial.is_ended else "running" if running else "killed",
        epochs=[(epoch.epoch, dict(epoch.metrics)) for epoch in trial.epochs],
        best_epoch=best.epoch if best else None,
        best_value=best.value if best else None,
        best_checkpoint=best_checkpoint(trial),
        reason=trial.reason,
        attempts=trial.attempt,
    )


def is_folder_name(name: str) -> bool:
    """Say whether a study of this name would have a folder of its own among the studies."""
    return bool(name) and "/" not in name and not name.startswith(".")


def check_name(home: Home, name: str) -> None:
    """Make sure that a name leads to a folder among the studies, and nowhere else.

    Raises:
        StudyError: it does not; names the studies that exist.
    """
    if not is_folder_name(name):
        raise StudyError(f"{name!r} is no name of a study; studies: {study_names(home.study('x').parent)}")


def study_names(folder: Path) -> str:
    """Return the studies under a folder in words."""
    found = sorted(path.parent.name for path in folder.glob("*/events.jsonl") if path.stat().st_size)
    return ", ".join(found) or "none yet; make one: python launch/tune.py --space demo"
