"""What a start would do with a study's name: nothing is written."""

from dataclasses import dataclass, field
from typing import Any, cast

from odmt.errors import OdmtError
from odmt.home import Home
from odmt.tuning.event_log import EventLog, is_owned, read_log
from odmt.tuning.folding import apply
from odmt.tuning.identity import open_study
from odmt.tuning.preflight import Inputs, Source
from odmt.tuning.space import Space
from odmt.tuning.state import Study
from odmt.tuning.warm_start import warm_records


@dataclass(frozen=True)
class Asked:
    """What is asked of a search, besides its space.

    Attributes:
        name: of the study.
        where: ``auto``, ``local`` or ``attach``.
        extend: raise the budgets.
        warm_start: earlier studies.
        source: where the inputs come from.
    """

    name: str
    where: str = "auto"
    extend: bool = False
    warm_start: tuple[str, ...] = ()
    source: Source = field(default_factory=Source)


class _Rehearsal:
    """A log that nothing is written to."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.kinds: list[str] = []

    def commit(self, kind: str, **fields: Any) -> None:
        self.kinds.append(kind)
        if kind == "header":  # what follows is asked of the new study
            self.study = Study()
        apply(self.study, {"kind": kind, **fields})


def rehearsed(space: Space, home: Home, asked: Asked, inputs: Inputs) -> tuple[str, OdmtError | None]:
    """Return in words what a start would do with what stands under the study's name, and why it would be refused."""
    path = home.study(asked.name) / "events.jsonl"
    try:
        log = _Rehearsal(read_log(path) if path.is_file() else Study())
        open_study(
            cast(EventLog, log),
            asked.name,
            space,
            inputs.digest,
            extend=asked.extend,
            run_digests=inputs.run_digests,
            warm_start=asked.warm_start,
            warm=lambda: warm_records(home, asked.warm_start, space, inputs.digest),
        )
    except OdmtError as error:
        return f"would be refused: {error}", error
    study = log.study
    owned = "; but a driver runs it now, so a second one would be refused" if is_owned(path.parent) else ""
    if "header" in log.kinds:
        return f"new{_taken_over(study)}{owned}", None
    raised = ", its budget raised" if "extended" in log.kinds else ""
    done = f"{study.num_ended} of {study.budget} trials have ended"
    if study.finished:
        return f"has finished ({done}); it would only be printed; more: --extend with a larger budget", None
    return f"would go on{raised}: {done}, {len(study.interrupted)} go on from their checkpoints{owned}", None


def _taken_over(study: Study) -> str:
    if not study.warmed:
        return ""
    parts = [f"{len(record['trials'])} trials of {record['study']} as {record['mode']}" for record in study.warmed]
    return "; begins with " + ", ".join(parts)
