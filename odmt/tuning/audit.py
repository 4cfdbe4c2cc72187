"""The audit of a study: every proposal and every decision is derived again from what the log says before it.

The log is folded once, and once more behind that: up to the record from which a proposal was made.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odmt.errors import EventLogError
from odmt.tuning.event_log import decode
from odmt.tuning.folding import apply
from odmt.tuning.recorded import differing, shown, version_note
from odmt.tuning.rederiving import Rederiving
from odmt.tuning.space import Space
from odmt.tuning.space_from_log import space_of
from odmt.tuning.state import Study


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        study: name in the log.
        records: of the log.
        proposals: derived again; reused ones and the finding that a space is exhausted are among them.
        verdicts: derived again.
        note: why real numbers were not compared exactly; None = they were.
        findings: one sentence each, with the line in the log; none = clean.
    """

    study: str
    records: int
    proposals: int = 0
    verdicts: int = 0
    note: str | None = None
    findings: list[str] = field(default_factory=list)


def audit(log_path: Path, space: Space) -> list[str]:
    """Return what in a log does not follow from what stands before it; an empty list = clean.

    Raises:
        EventLogError: a complete line is damaged or out of order; names it.
    """
    return examine(log_path, space).findings


def examine(log_path: Path, space: Space | None = None, tell: Callable[[int], None] | None = None) -> Audit:
    """Audit a log.

    Args:
        log_path: a study's ``events.jsonl``; a torn tail is left out.
        space: what was searched; None = as the log's header says.
        tell: told how many records are done.

    Raises:
        EventLogError: a complete line is damaged or out of order; names it.
        StudyError: an older version made it, whose header says too little.
        ConfigError: the header holds no space of this version.
    """
    records = _decoded(log_path)
    header = next((record for record in reversed(records) if record["kind"] == "header"), None)
    if header is None:
        raise EventLogError(f"{log_path}: holds no header; the study was never begun")
    space = space or space_of(header)
    note = version_note(header)
    found = Audit(header.get("study", ""), len(records), note=note)
    lagging = _Lagging(records)
    steps = Rederiving(space, lagging.upto, exact=note is None)
    found.findings += [f"line {records.index(header) + 1}: {text}" for text in _header_findings(header, space)]
    for number, record in enumerate(records, start=1):
        try:
            found.findings += [f"line {number}: {text}" for text in steps.findings(record)]
            steps.take(record)
        except KeyError as error:
            raise EventLogError(f"{log_path}:{number}: damaged event log: the record lacks {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise EventLogError(f"{log_path}:{number}: damaged event log: {error}") from error
        found.proposals += record["kind"] in ("proposed", "reused", "exhausted")
        found.verdicts += record["kind"] == "epoch"
        if tell is not None:
            tell(number)
    return found


def _decoded(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = decode(line)
            record["kind"], record["time"]
        except KeyError as error:
            raise EventLogError(f"{path}:{number}: damaged event log: the record lacks {error}") from error
        except (ValueError, TypeError) as error:
            raise EventLogError(f"{path}:{number}: damaged event log: {error}") from error
        records.append(record)
    return records


class _Lagging:
    """The study as it was after so many records; asked for ever later ones."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records
        self._study = Study()

    def upto(self, count: int) -> Study:
        while self._study.records < count:
            apply(self._study, self._records[self._study.records])
        return self._study


def _header_findings(header: Mapping[str, Any], space: Space) -> Iterator[str]:
    derived = {
        "identity": space.identity(),
        "digest": space.digest,
        "seed": space.sampler.seed,
        "dataset": space.base.data.dataset,
        "objectives": [[name, mode] for name, mode in space.objectives.items()],
    }
    for path, was, follows in differing(header, derived, exact=True):
        yield f"header: {path} is {shown(was)}, the space gives {shown(follows)}"
