"""Turn a data set into what training reads: interactions, pictures and frozen features."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from odmt.commands import Parser, run

if TYPE_CHECKING:
    from odmt.config import ImageEncoderConfig, TextEncoderConfig
    from odmt.experiment.prepare import StageReport

CHECKOUT = Path(__file__).resolve().parent.parent
STAGES = ("import", "images", "features", "verify")

DESCRIPTION = """Prepare a data set: import, images, features, verify.

Every stage does only what is missing or out of date; the same command goes on after an interruption. Without
--source the data set demo is generated. Encoders are those of the space, by default search_spaces/<dataset>.yaml.

  python launch/prepare.py --dataset demo
  python launch/prepare.py --dataset arts --source ~/arts"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--dataset", metavar="NAME", help="name of the data set; default: the space's, else demo")
    parser.add_argument("--space", help="a name under search_spaces/, or a YAML file: whose encoders to prepare for")
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder in the authors' Amazon layout")
    parser.add_argument(
        "--tiny-encoders",
        action="store_true",
        help="make tiny random encoders inside the data set's folder; without a space, prepare for them",
    )
    parser.add_argument("--stage", choices=STAGES, help="run this stage only")
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Prepare as the arguments say."""
    from odmt.experiment.prepare import PreparePlan, prepare, with_stages
    from odmt.home import Home

    dataset, texts, images = _wanted(arguments)
    plan = PreparePlan(
        dataset=dataset,
        source=arguments.source,
        generate_demo=dataset == "demo" and arguments.source is None,
        tiny_encoders=arguments.tiny_encoders or dataset == "demo",
        text_encoders=tuple(texts),
        image_encoders=tuple(images),
    )
    home = Home.from_environment()
    print(f"data set {dataset} in {home.dataset(dataset)}", flush=True)
    reports = prepare(home, with_stages(plan, arguments.stage), _tell)
    print(f"{'prepared' if any(report.changed for report in reports) else 'up to date'}: {dataset}")
    return 0


def _wanted(arguments: argparse.Namespace) -> "tuple[str, list[TextEncoderConfig], list[ImageEncoderConfig]]":
    """Return the data set and the encoders to prepare for."""
    from odmt.config import DataConfig, FeaturesConfig, ImageEncoderConfig, TextEncoderConfig, from_mapping

    asked = arguments.dataset
    if asked is not None:
        from_mapping(DataConfig, {"dataset": asked}, "--dataset")
    name = arguments.space
    if name is None and (CHECKOUT / "search_spaces" / f"{asked or 'demo'}.yaml").is_file():
        name = asked or "demo"
    if name is not None:
        from odmt.tuning.space import load_space

        space = load_space(name)
        texts, images = space.encoders()
        return asked or space.base.data.dataset, texts, images
    dataset = asked or "demo"
    if arguments.tiny_encoders or dataset == "demo":
        from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT

        tiny: tuple[list[TextEncoderConfig], list[ImageEncoderConfig]] = ([TINY_TEXT], [TINY_IMAGE])
        return dataset, *tiny
    default = FeaturesConfig()
    return dataset, [default.text], [default.image]


def _tell(report: "StageReport") -> None:
    state = "done" if report.changed else "read back" if report.stage == "verify" else "up to date"
    print(f"  {report.stage:<9}{state:<11}{report.seconds:6.1f} s  {report.summary}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
