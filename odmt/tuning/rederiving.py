"""What each record of a log would have to be, given those before it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from odmt.config import to_mapping
from odmt.tuning import budget
from odmt.tuning.attempts import Attempts
from odmt.tuning.folding import apply
from odmt.tuning.recorded import differing, shown
from odmt.tuning.samplers import Proposal, propose
from odmt.tuning.scheduler import bracket_of, is_sentinel, verdict
from odmt.tuning.space import Space
from odmt.tuning.state import FAIL, METRIC, Study, Trial
from odmt.tuning.trials import why_not_finite

CLOCK_SECONDS = 60.0
"""A clock may be set back by so much, or another host's be behind by it."""
_FOUND = ("values", "distributions", "system_attrs", "study_attrs", "draws")
Record = Mapping[str, Any]


class Rederiving:
    """Goes through a log and compares each record with what follows from those before it."""

    def __init__(self, space: Space, upto: Callable[[int], Study], *, exact: bool) -> None:
        """Begin before the first record.

        Args:
            space: what was searched.
            upto: gives the study after so many records; asked with ever larger numbers.
            exact: real numbers must be equal to the last bit.
        """
        self._space = space
        self._upto = upto
        self._exact = exact
        self._now = Study()
        self._attempts = Attempts()
        self._asked_from = 0  # records before the next proposal can have been asked for

    def take(self, record: Record) -> None:
        """Fold the record that was just compared.

        Raises:
            ValueError: it cannot follow what came before it.
            KeyError: it lacks a field.
        """
        apply(self._now, record)
        self._attempts.take(record, self._now)
        if record["kind"] in ("header", "warm", "opened", "extended", "proposed", "reused"):
            self._asked_from = self._now.records

    def findings(self, record: Record) -> Iterator[str]:
        """Yield a sentence for everything that does not follow."""
        last, kind = self._now.last_time, record["kind"]
        if last is not None and record["time"] < last - CLOCK_SECONDS:
            yield f"{kind}: its time is {last - record['time']:.0f} s before that of the record before it"
        yield from self._attempts.findings(record, self._now)
        if kind in ("proposed", "reused"):
            yield from self._proposal(record)
        elif kind == "exhausted":
            yield from self._exhausted()
        elif kind == "epoch":
            yield from self._verdict(record)
        elif kind == "limit":
            yield from self._limit(record)
        elif kind == "extended" and (what := _not_raised(self._now, record)):
            yield f"extended: {what}"

    def _proposal(self, record: Record) -> Iterator[str]:
        study, asof = self._now, record["asof"]
        what = record["trial"] if record["kind"] == "proposed" else f"reused {record['of']}"
        if not study.wants_proposal or study.tainted:
            yield f"{what}: is a proposal, but none was wanted: {_why_none_wanted(study)}"
        if [warm["study"] for warm in study.warmed] != study.header.get("warm_start", []):
            yield f"{what}: is a proposal before the warm start is complete"
        if not isinstance(asof, int) or not self._asked_from <= asof <= study.records:
            yield f"{what}: asof is {asof}, possible are {self._asked_from} to {study.records}"
            return
        derived = _proposed(self._space, self._upto(asof))
        if isinstance(derived, str):
            yield f"{what}: cannot be derived from the first {asof} records: {derived}"
        elif derived is None:
            yield f"{what}: is a proposal, but from the first {asof} records the space is exhausted"
        else:
            yield from self._proposal_fields(record, what, derived)

    def _exhausted(self) -> Iterator[str]:
        study = self._now
        if not study.wants_proposal or study.tainted:
            yield f"exhausted: but no proposal was wanted: {_why_none_wanted(study)}"
        elif (derived := _proposed(self._space, study)) is not None:
            yield f"exhausted: but the log gives {shown(derived.values if isinstance(derived, Proposal) else derived)}"

    def _proposal_fields(self, record: Record, what: str, derived: Proposal) -> Iterator[str]:
        fields: dict[str, Any] = {name: getattr(derived, name) for name in _FOUND}
        if record["kind"] == "reused":
            fields["of"] = derived.equals
        else:
            if derived.equals is not None:
                yield f"{what}: was run, but is the same run as {derived.equals}"
            number, space = len(self._now.trials), self._space
            config = space.config_for(derived.values)
            fields |= {
                "trial": f"t{number:04d}",
                "config": to_mapping(config),
                "source": derived.source,
                "sentinel": is_sentinel(space.scheduler, self._now.header["trials"], number),
                "bracket": bracket_of(space.scheduler, config.train.max_epochs, space.sampler.seed, number),
            }
        for path, was, follows in differing(record, fields, exact=self._exact):
            yield f"{what}: {path} is {shown(was)}, the log gives {shown(follows)}"

    def _verdict(self, record: Record) -> Iterator[str]:
        trial = self._now.trials.get(record["trial"])
        if trial is None or trial.is_ended:
            return  # folding refuses it
        epoch, metrics = record["epoch"], record["metrics"]
        longest = trial.config["train"]["max_epochs"]
        last = _stops_early(trial, epoch, metrics)
        follows = verdict(self._now, self._space.scheduler, longest, trial.trial_id, epoch, metrics, is_last=last)
        where = f"{trial.trial_id}, epoch {epoch}"
        if record["verdict"] != follows:
            yield f"{where}: the verdict is {record['verdict']}, the log gives {follows}"
        reason = why_not_finite(self._now.objectives, epoch, metrics) if follows == FAIL else None
        if record.get("reason") != reason:
            yield f"{where}: the reason is {shown(record.get('reason'))}, the log gives {shown(reason)}"

    def _limit(self, record: Record) -> Iterator[str]:
        study, what, now = self._now, record["what"], record["time"]
        seconds, hours = study.seconds_allowed, study.gpu_hours_allowed
        allowed = {"time": None if seconds is None else seconds / 3600, "gpu-hours": hours}.get(what)
        used = {"time": budget.seconds_used(study, now) / 3600, "gpu-hours": budget.device_hours(study, now)}.get(what)
        if allowed is None or used is None:
            yield f"limit: there is no budget of {what}"
            return
        if record["allowed"] != allowed:
            yield f"limit: allowed are {record['allowed']}, the log gives {allowed}"
        slack = CLOCK_SECONDS * max(1.0, study.devices) / 3600
        if not allowed <= record["used"] <= used + slack or used - record["used"] > slack:
            yield f"limit: used are {record['used']} h of {what}, the log gives {used:.6f} of {allowed:g}"


def _proposed(space: Space, study: Study) -> Proposal | str | None:
    """Propose; a text says what a sampler could not make of a log that was tampered with."""
    try:
        return propose(space, study)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _why_none_wanted(study: Study) -> str:
    if study.tainted:
        return f"the study was tainted: {study.tainted}"
    if study.limit is not None:
        return f"the budget of {study.limit} was met"
    return "the space was exhausted" if study.exhausted else f"there are {len(study.trials)} of {study.budget} trials"


def _stops_early(trial: Trial, epoch: int, metrics: Mapping[str, Any]) -> bool:
    """Say whether the trial's own early stopping ends it at this epoch."""
    patience = trial.config["train"]["early_stopping_patience"]
    value, best = metrics.get(METRIC), trial.best
    if patience is None or value is None or best is None or value > best.value:
        return False
    return bool(epoch - best.epoch >= patience)


def _not_raised(study: Study, record: Record) -> str | None:
    for name, was in (("seconds", study.seconds_allowed), ("gpu_hours", study.gpu_hours_allowed)):
        if name in record and (was is None or (record[name] is not None and record[name] <= was)):
            return f"{name} from {shown(was)} to {shown(record[name])} is no more than before"
    return None
