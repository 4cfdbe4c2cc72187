"""Search: run the trials of a space, or go on with a study."""

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from odmt.commands import Parser, run

if TYPE_CHECKING:
    from pathlib import Path

    from odmt.home import Home
    from odmt.tuning.json_lines import JsonLines
    from odmt.tuning.planning import Asked
    from odmt.tuning.preflight import Inputs
    from odmt.tuning.space import Space
    from odmt.tuning.study import StudyView

DESCRIPTION = """Search a space for the values with the best validation NDCG@10.

A study is the space's name unless --study says otherwise. The same command goes on with an interrupted study, and only
prints the result of a finished one. The first budget that is met ends the search: trials, time, GPU hours.

  python launch/tune.py --space demo --dry-run --probe
  python launch/tune.py --space demo --time-budget 90m
  python launch/tune.py --space demo --study demo-long --set train.max_epochs=30
  python launch/tune.py --space demo --trials 40 --extend"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--space", required=True, help="a name under search_spaces/, or a YAML file")
    parser.add_argument("--study", help="name of the study; default: the space's name")
    parser.add_argument("--trials", type=int, help="how many trials; the same as --set budget.trials=N")
    parser.add_argument("--time-budget", metavar="TIME", help="such as 90m, 8h, 2d, 3600s; a bare number is hours")
    parser.add_argument("--max-gpu-hours", metavar="HOURS", help="GPU hours, or CPU hours where trials reserve no GPU")
    parser.add_argument("--extend", action="store_true", help="allow a larger budget than the study was begun with")
    parser.add_argument("--warm-start", metavar="STUDY,STUDY", help="begin with what earlier studies have found")
    parser.add_argument("--dry-run", action="store_true", help="print the plan; nothing is trained")
    parser.add_argument("--probe", action="store_true", help="with --dry-run: time a few steps on this machine")
    parser.add_argument(
        "--where",
        choices=("auto", "local", "attach"),
        default="auto",
        help="auto: the Ray that RAY_ADDRESS names, else a local one; local: a local one; attach: RAY_ADDRESS's",
    )
    parser.add_argument("--quiet", action="store_true", help="no live view")
    parser.add_argument("--json", action="store_true", help="events as JSON lines on standard output, and nothing else")
    parser.add_set()
    words = sys.argv[1:] if argv is None else argv
    return run(parser, lambda arguments: body(arguments, words), argv)


def body(arguments: argparse.Namespace, words: list[str]) -> int:
    """Search as the arguments say, or plan it."""
    from odmt.errors import ConfigError

    if arguments.probe and not arguments.dry_run:
        raise ConfigError("--probe", ["times the plan of --dry-run; add --dry-run, or leave it out"])
    if arguments.json and arguments.dry_run:
        raise ConfigError("--json", ["tells what a search does; --dry-run does nothing; leave one of them out"])
    from odmt.tuning.flags import budget_settings, warm_names
    from odmt.tuning.space import load_space
    from odmt.tuning.study import is_folder_name

    warm_start = warm_names(arguments.warm_start)

    budgets = budget_settings(arguments.trials, arguments.time_budget, arguments.max_gpu_hours)
    space = load_space(arguments.space, [*arguments.assignments, *budgets])
    name = arguments.study or space.name
    if not is_folder_name(name):
        raise ConfigError("--study", [f"{name!r} is not a folder name"])

    from odmt.home import Home
    from odmt.tuning.planning import Asked

    home = Home.from_environment()
    asked = Asked(name, arguments.where, arguments.extend, warm_start)
    if arguments.dry_run:
        dry_run(space, home, asked, probing=arguments.probe)
        return 0
    if not arguments.json:
        search(space, home, asked, words, quiet=arguments.quiet)
        return 0
    from odmt.tuning.json_lines import JsonLines

    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        search(space, home, asked, words, lines=JsonLines(lambda line: print(line, file=out, flush=True)))
    return 0


def dry_run(space: "Space", home: "Home", asked: "Asked", *, probing: bool) -> None:
    """Print the plan; what would refuse the search refuses this command too, after it."""
    from rich.console import Console

    from odmt.tracking.redaction import redacted
    from odmt.tuning.plan_view import plan_view
    from odmt.tuning.planning import make_outlook

    outlook = make_outlook(space, home, asked)
    probes: list[Any] = []
    if probing and outlook.refusal is None:
        from odmt.experiment.arrays import load_arrays
        from odmt.tuning.probe import measure, pace_of

        print("timing a few steps of the smallest and of the largest configuration", file=sys.stderr)
        threads, share = max(1, int(outlook.plan.cpus)), outlook.plan.gpus
        for extreme in (outlook.smallest, outlook.largest):
            arrays = load_arrays(home, extreme.config)
            probes.append(measure(extreme.config, arrays, extreme.values, threads=threads, gpu_share=share))
        outlook = outlook.with_pace(pace_of(*probes))
    Console().print(plan_view(space, asked.name, outlook, redacted(home.tracking_uri), probes))
    if outlook.refusal is not None:
        raise outlook.refusal


def search(
    space: "Space",
    home: "Home",
    asked: "Asked",
    words: list[str],
    *,
    quiet: bool = False,
    lines: "JsonLines | None" = None,
) -> None:
    """Run the study and print its end."""
    import shlex

    from odmt.cluster.storage import check_place
    from odmt.errors import InterruptedStudy
    from odmt.tuning.driver import Options, run_study

    check_place(home.study(asked.name))
    command = shlex.join(["python", "launch/tune.py", *words])
    before = standing(home, asked.name)
    mirrors: list[Any] = []
    options = Options(
        command=command,
        where=asked.where,
        extend=asked.extend,
        quiet=quiet or lines is not None,
        say=lambda sentence: print(sentence, flush=True),
        make_mirror=lambda header: open_mirror(home, space, asked.name, header, mirrors),
        warm_start=asked.warm_start,
        opened=lambda folder, inputs: keep_plan(space, home, asked, folder, inputs, before),
        listener=lines,
        standing=lambda: mirrors[0].standing if mirrors else "",
    )
    try:
        study = run_study(space, home, asked.name, options)
    except (InterruptedStudy, KeyboardInterrupt) as error:
        if lines is not None:
            lines.tell("interrupted", command=command)
        tell_standing(mirrors)
        if isinstance(error, InterruptedStudy):
            raise
        raise InterruptedStudy(f"interrupted; go on with: {command}") from None
    if lines is not None:
        lines.finished(study)
    report(home, study, before)
    tell_standing(mirrors)


def keep_plan(
    space: "Space", home: "Home", asked: "Asked", folder: "Path", inputs: "Inputs", before: "StudyView | None"
) -> None:
    """Write the plan beside a study's log where it is new or a budget was raised, so that the end can be compared."""
    from odmt.tuning.plan import read_plan, write_plan
    from odmt.tuning.planning import make_outlook

    begun = before is not None and bool(before.trials)
    now = standing(home, asked.name)
    raised = begun and now is not None and budgets(now) != budgets(before)
    if raised or not begun or read_plan(folder) is None:
        write_plan(folder, make_outlook(space, home, asked, inputs).plan, extended=raised)


def budgets(study: "StudyView | None") -> tuple[float | None, ...]:
    """Return what a study may use: trials, hours, device hours."""
    return () if study is None else (study.budget, study.hours_allowed, study.gpu_hours_allowed)


def open_mirror(home: "Home", space: "Space", name: str, header: Any, mirrors: list[Any]) -> Any:
    """Connect to MLflow; a server that is away now gets everything later."""
    from odmt.config import dotted_values
    from odmt.errors import ServiceError
    from odmt.home import code_version
    from odmt.tracking.runs import RunMirror

    fixed = {path: value for path, value in dotted_values(space.base).items() if path not in space.axes}
    mirror = RunMirror(
        home,
        experiment=header["dataset"],
        study=name,
        study_id=header["study_id"],
        tags={"odmt.data_digest": header["data_digest"], "odmt.code_version": code_version()},
        params=fixed | {"sampler.name": space.sampler.name, "scheduler.name": space.scheduler.name},
    )
    try:
        mirror.start()
    except ServiceError as error:
        print(f"warning: {error}; the search goes on, and MLflow gets everything once it answers", file=sys.stderr)
    mirrors.append(mirror)
    return mirror


def tell_standing(mirrors: list[Any]) -> None:
    """Print how MLflow stands at the end, and where the study's run is shown."""
    for mirror in mirrors:
        print(mirror.standing)
        if mirror.run_page is not None:
            print(f"run: {mirror.run_page}")


def standing(home: "Home", name: str) -> "StudyView | None":
    """Return the study as it stands before this start; None = a new one."""
    from odmt.errors import OdmtError
    from odmt.tuning.study import read_study

    try:
        return read_study(home, name)
    except OdmtError:
        return None


def report(home: "Home", study: "StudyView", before: "StudyView | None") -> None:
    """Print the last word: counts, the plan beside what happened, the best trial beside the floors, what is next."""
    from rich.console import Console

    from odmt.tuning import ending
    from odmt.tuning.plan import read_plan

    folder = home.study(study.name)
    print("", *ending.outcome(study, before), sep="\n")
    Console().print(ending.plan_table(study, read_plan(folder), folder))
    if study.best is None:
        print("no trial reported a usable metric; see the reasons above")
        return
    print(*ending.best_lines(study.best), sep="\n")
    Console().print(ending.best_table(home, study.best))
    print("next: make ui")
    print(f"      python launch/report.py {study.name}")
    print(f"      python launch/promote.py {study.name}")


if __name__ == "__main__":
    sys.exit(main())
