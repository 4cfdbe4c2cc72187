"""Report: one HTML page, tables and a protocol card about a study."""

import argparse
import sys
from pathlib import Path

from odmt.commands import Parser, run

DESCRIPTION = """Write a study's report: one HTML page that needs nothing else, CSV tables, JSON, and LaTeX.

Made from the study's event log alone, also while it runs or after an interruption. Logged to the study's MLflow run.

  python launch/report.py demo
  python launch/report.py demo --out /tmp/demo-report
  python launch/report.py demo --json"""

MANY = 200


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("study", metavar="STUDY", help="name of the study")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write; default: report/ in the study's folder"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Report as the arguments say."""
    from odmt.cluster.storage import writable_folder
    from odmt.home import Home
    from odmt.tuning.report.facts import read_facts

    home = Home.from_environment()
    facts = read_facts(home, arguments.study)  # what is wrong with it is told before pandas and plotly are imported
    folder = arguments.out or home.study(arguments.study) / "report"
    writable_folder(folder, *(["give --out a place that can"] if arguments.out else []))

    from odmt.tuning.report.build import build_report, write_report

    if len(facts.trials) > MANY:
        print(f"{len(facts.trials)} trials: the importance of their settings takes up to a minute", file=sys.stderr)
    report = build_report(facts)
    files = write_report(report, folder)

    from odmt.errors import ServiceError
    from odmt.tracking.report_files import log_report

    run_id = None
    try:
        run_id = log_report(home, facts.header["dataset"], facts.header["study_id"], files)
    except ServiceError as error:
        print(f"warning: {error}; the report is written, but not logged to MLflow", file=sys.stderr)
    if arguments.json:
        import json

        print(json.dumps(report.summary | {"files": list(map(str, files)), "mlflow_run": run_id}, ensure_ascii=False))
        return 0
    counts = ", ".join(f"{number} {outcome}" for outcome, number in report.summary["counts"].items() if number)
    note = "" if facts.standing == "finished" else f"; the study is {facts.standing}"
    print(f"study {facts.name}: {len(facts.trials)} trials: {counts or 'none yet'}{note}")
    for best in report.summary["best"]:
        value = best["objectives"][facts.objectives[0].metric]
        print(f"best: trial {best['trial']}, {facts.objectives[0].metric} {value:.4f} at epoch {best['epoch']}")
    print(f"report: {files[0]}")
    print(f"        beside it {', '.join(file.name for file in files[1:])}")
    if run_id is not None:
        print(f"        in MLflow run {run_id} under report/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
