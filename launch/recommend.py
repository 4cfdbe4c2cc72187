"""Ask a registered model for items."""

import argparse
import json
import sys

from odmt.commands import Parser, run

DESCRIPTION = """Ask a registered model what comes next after a history of items.

  python launch/recommend.py --model demo --history ID,ID,ID
  python launch/recommend.py --model models:/odmt-demo@previous --history ID,ID --top-k 5 --json"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--model", required=True, metavar="NAME", help="a data set, odmt-<dataset>, or a models:/ URI")
    parser.add_argument("--history", required=True, metavar="ID,ID,...", help="item ids, the most recent last")
    parser.add_argument("--top-k", type=int, default=10, metavar="N", help="places of the list (default: 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Recommend as the arguments say."""
    from odmt.errors import ConfigError

    history = [item.strip() for item in arguments.history.split(",")]
    if not all(history):
        raise ConfigError("--history", [f"{arguments.history!r} holds an empty item id; expected ID,ID,..."])
    if arguments.top_k < 1:
        raise ConfigError("--top-k", [f"{arguments.top_k} is below 1"])

    from odmt.home import Home
    from odmt.tracking.registry import load_champion

    model = load_champion(Home.from_environment(), arguments.model)
    [places] = model.predict([history], params={"top_k": arguments.top_k})
    if arguments.json:
        print(json.dumps([place.model_dump() for place in places], ensure_ascii=False))
        return 0

    from rich.console import Console
    from rich.table import Table

    table = Table("rank", "item", "title", "score", title=f"{arguments.model}: after {', '.join(history)}")
    for place in places:
        table.add_row(str(place.rank), place.item_id, place.title, f"{place.score:.4f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
