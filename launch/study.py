"""Studies: what there is, how each stands; stop, audit and delete one."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from odmt.commands import Parser, run

if TYPE_CHECKING:
    from odmt.tuning.audit import Audit
    from odmt.tuning.studies import Standing

DESCRIPTION = """Look after studies: what there is, how each stands; stop, audit and delete one.

  python launch/study.py list
  python launch/study.py status demo
  python launch/study.py stop demo --timeout 60
  python launch/study.py audit demo --json
  python launch/study.py delete demo --yes"""

DRIFTED = 4
_SHOWN_FINDINGS = 20


class Action(Parser):
    """The parser of one action."""

    def __init__(self, description: str, prog: str) -> None:
        super().__init__(description)
        self.prog = prog


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Action, metavar="ACTION")
    listing = actions.add_parser("list", help="every study", description="List every study under ODMT_HOME.")
    status = actions.add_parser("status", help="how one stands", description="Tell how a study stands.")
    stop = actions.add_parser(
        "stop", help="end its search as Ctrl-C does", description="End a search as Ctrl-C does, and wait for its end."
    )
    audit = actions.add_parser(
        "audit",
        help="derive every proposal and verdict again",
        description="Derive every proposal, verdict and retry again from the log alone; exit code 4 if any differs.",
    )
    delete = actions.add_parser(
        "delete", help="remove its log and checkpoints", description="Remove a study's log and checkpoints for good."
    )
    for action in (status, stop, audit, delete):
        action.add_argument("study", metavar="STUDY", help="name of the study")
    for action in (listing, status, audit):
        action.add_argument("--json", action="store_true", help="print one JSON value, and nothing else")
    stop.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="how long to wait; default: 120")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Do what the arguments say."""
    return {"list": listed, "status": told, "stop": stopped, "audit": audited, "delete": deleted}[arguments.action](
        arguments
    )


def listed(arguments: argparse.Namespace) -> int:
    """List all studies."""
    from odmt.home import Home
    from odmt.tuning.status import row
    from odmt.tuning.status_words import best_in, size, when
    from odmt.tuning.studies import standings
    from odmt.tuning.study import study_names

    home = Home.from_environment()
    rows = [row(one) for one in standings(home)]
    if arguments.json:
        print_json(rows)
        return 0
    folder = home.study("x").parent
    if not rows:
        print(f"studies under {folder}: {study_names(folder)}")
        return 0
    print_table(
        f"studies under {folder}",
        ("study", "data set", "state", "ended", "best", "last activity", "checkpoints", "log"),
        [
            (
                one["study"],
                one["dataset"] or "",
                f"running ({one['pid']})" if one["state"] == "running" else one["state"],
                f"{one['ended']} of {one['budget']}" if one["budget"] else "",
                best_in(one),
                when(one["last_activity"]),
                size(one["checkpoint_bytes"]),
                size(one["log_bytes"]),
            )
            for one in rows
        ],
    )
    for one in rows:
        if one["why"]:
            print(f"{one['study']}: {one['why']}")
    return 0


def told(arguments: argparse.Namespace) -> int:
    """Tell how a study stands."""
    from odmt.tuning.status import status
    from odmt.tuning.status_words import lines

    found = status(readable(arguments.study))
    if arguments.json:
        print_json(found)
        return 0
    for line in lines(found):
        print(line)
    return 0


def stopped(arguments: argparse.Namespace) -> int:
    """Ask the owner of a study to end, and wait until it has."""
    from odmt.errors import ConfigError
    from odmt.home import Home
    from odmt.tuning.owner import stop_owner
    from odmt.tuning.studies import standing, study_folder

    if not 0 < arguments.timeout < float("inf"):
        raise ConfigError("--timeout", [f"{arguments.timeout:g} is not a number of seconds above 0"])
    folder = study_folder(Home.from_environment(), arguments.study)
    before = standing(folder)
    if before.pid is None:
        print(f"study {before.name} is not running: {before.state}")
        return 0
    print(f"study {before.name}: process {before.pid} is asked to end", flush=True)
    stop_owner(before, arguments.timeout)
    after = standing(folder)
    command = after.opened.get("command")
    goes_on = f"; go on with: {command}" if command and after.state == "interrupted" else ""
    ended = f"{after.study.num_ended} of {after.study.budget} trials have ended"
    print(f"study {after.name} is stopped: {after.state}, {ended}{goes_on}")
    return 0


def audited(arguments: argparse.Namespace) -> int:
    """Derive a study's decisions again."""
    import time

    from odmt.commands import meter
    from odmt.home import Home
    from odmt.tuning.studies import study_folder

    log = study_folder(Home.from_environment(), arguments.study) / "events.jsonl"

    from odmt.tuning.audit import examine

    lines = log.read_bytes().count(b"\n")
    begun = time.monotonic()
    with meter("audit", lines) as tell:
        found = examine(log, tell=tell)
    if arguments.json:
        print_json({**vars(found), "clean": not found.findings})
    else:
        print_audit(arguments.study, found, time.monotonic() - begun)
    return DRIFTED if found.findings else 0


def print_audit(name: str, found: "Audit", seconds: float) -> None:
    """Print an audit's findings, or that there are none."""
    from odmt.commands import duration

    did = f"{found.records} records, {found.proposals} proposals, {found.verdicts} verdicts re-derived"
    verdict = f"{len(found.findings)} findings" if found.findings else "clean"
    print(f"audit of {name}: {did}: {verdict} ({duration(seconds)})")
    if found.note:
        print(f"note: {found.note}")
    for finding in found.findings[:_SHOWN_FINDINGS]:
        print(f"  {finding}")
    if len(found.findings) > _SHOWN_FINDINGS:
        print(f"  and {len(found.findings) - _SHOWN_FINDINGS} more; --json has all of them")


def deleted(arguments: argparse.Namespace) -> int:
    """Delete a study, once it is clear that this is meant."""
    from odmt.errors import ConfigError, StudyLockedError
    from odmt.home import Home
    from odmt.tuning.status_words import disk
    from odmt.tuning.studies import delete_study, standing, study_folder

    one = standing(study_folder(Home.from_environment(), arguments.study))
    if one.pid is not None:
        raise StudyLockedError(
            f"study {one.name!r} is being run by process {one.pid}; python launch/study.py stop {one.name} ends that"
        )
    study = one.study
    ended = f"{study.num_ended} of {study.budget} trials have ended" if study.header else "no trial can be read"
    print(f"study {one.name}: {one.state}, {ended}, {one.folder}")
    print(disk(one.sizes.log, one.sizes.trials, one.sizes.other))
    print("its MLflow runs and the models registered from it have their own files and stay")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise ConfigError("--yes", ["is needed where no one can be asked; nothing was deleted"])
        if input("delete the study for good? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return 0
    delete_study(one.folder)
    print(f"study {one.name} is deleted")
    return 0


def readable(name: str) -> "Standing":
    """Return how a study stands whose log can be read.

    Raises:
        StudyError: there is no such study, or nothing of it but a name.
        EventLogError: its log is damaged; names the line.
    """
    from odmt.errors import EventLogError, StudyError
    from odmt.home import Home
    from odmt.tuning.studies import standing, study_folder

    found = standing(study_folder(Home.from_environment(), name))
    if found.damage is not None:
        raise EventLogError(found.damage)
    if not found.study.header:
        raise StudyError(f"study {name!r} was never begun: {found.folder / 'events.jsonl'} is empty")
    return found


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table; without a terminal as wide as it wants to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def print_json(value: Any) -> None:
    """Print one JSON value."""
    import json

    print(json.dumps(value, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
