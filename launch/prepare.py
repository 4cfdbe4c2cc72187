"""Turn a data set into what training reads: interactions, pictures and frozen features."""

import argparse
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odmt.commands import Parser, run

if TYPE_CHECKING:
    from odmt.config import ImageEncoderConfig, PrepareConfig, TextEncoderConfig
    from odmt.experiment.prepare_plan import PreparePlan, StageReport
    from odmt.home import Home

CHECKOUT = Path(__file__).resolve().parent.parent
STAGES = ("import", "images", "features", "verify")
READ_HERE = ("prepare.", "features.")

DESCRIPTION = """Prepare a data set: import, images, features, verify.

The source is a folder with the authors' release (Amazon, KS or hm dialect), Amazon reviews 2018, H&M's Kaggle files or
MicroLens; which one is found out. Every stage does only what is missing or out of date; the same command goes on after
an interruption. Without --source the data set demo is generated. Encoders are those of the space, by default
search_spaces/<dataset>.yaml.

  python launch/prepare.py --dataset demo
  python launch/prepare.py --dataset arts --source ~/arts --dry-run
  python launch/prepare.py --dataset arts --source ~/arts --download-images
  python launch/prepare.py --dataset arts --stage verify --preview"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--dataset", metavar="NAME", help="name of the data set; default: the space's, else demo")
    parser.add_argument("--space", help="a name under search_spaces/, or a YAML file: whose encoders to prepare for")
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder of the source; needed once")
    parser.add_argument("--stage", choices=STAGES, help="run this stage only; verify then reads everything back")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, with sizes and times")
    parser.add_argument(
        "--download-images", action="store_true", help="fetch pictures that the source has addresses of"
    )
    parser.add_argument("--preview", action="store_true", help="draw a sheet of items with pictures and titles, a PNG")
    parser.add_argument(
        "--revision",
        action="append",
        default=[],
        metavar="text=REV",
        help="commit, tag or branch of the hub's text or image encoder (text=REV, image=REV)",
    )
    parser.add_argument(
        "--tiny-encoders",
        action="store_true",
        help="make tiny random encoders inside the data set's folder; without a space, prepare for them",
    )
    parser.add_argument(
        "--where",
        choices=("local", "attach"),
        default="local",
        help="where encoders run: here, or as tasks on the Ray that RAY_ADDRESS names (default: local)",
    )
    parser.add_set()
    return run(parser, body, argv)


def body(arguments: argparse.Namespace) -> int:
    """Prepare as the arguments say."""
    assignments = [*arguments.assignments, *revisions(arguments.revision)]
    check_stage(arguments)
    dataset, texts, images, settings = wanted(arguments, assignments)

    from odmt.experiment.prepare_plan import PreparePlan, with_stages
    from odmt.home import Home

    plan = PreparePlan(
        dataset=dataset,
        source=arguments.source,
        generate_demo=dataset == "demo" and arguments.source is None,
        tiny_encoders=arguments.tiny_encoders or dataset == "demo",
        text_encoders=tuple(texts),
        image_encoders=tuple(images),
        settings=settings,
        download=arguments.download_images,
        preview=arguments.preview,
        tell=lambda sentence: print(f"  {sentence}", flush=True),
    )
    plan = with_stages(plan, arguments.stage)
    home = Home.from_environment()
    print(f"data set {dataset} in {home.dataset(dataset)}", flush=True)
    if arguments.dry_run:
        return forecast(home, plan)
    with ExitStack() as stack:
        reports = carry_out(home, on_ray(plan, stack) if arguments.where == "attach" else plan)
    if arguments.stage is None:
        print(f"{'prepared' if any(report.changed for report in reports) else 'up to date'}: {dataset}")
        say_next(arguments, dataset, [item for item in assignments if item.startswith("features.")])
    return 0


def check_stage(arguments: argparse.Namespace) -> None:
    """Refuse flags of another stage than the one asked for, and of work where none is done.

    Raises:
        ConfigError: there is such a flag.
    """
    from odmt.errors import ConfigError

    for flag, given, stages in (
        ("--source", arguments.source is not None, ("import",)),
        ("--download-images", arguments.download_images, ("images",)),
        ("--revision", bool(arguments.revision), ("features", "verify")),
        ("--where", arguments.where != "local", ("features",)),
        ("--preview", arguments.preview, ("verify",)),
    ):
        if given and arguments.stage not in (None, *stages):
            stage = " or ".join(stages)
            raise ConfigError(flag, [f"belongs to the stage {stage}, and --stage {arguments.stage} was given"])
    if arguments.dry_run and arguments.where == "attach":
        raise ConfigError("--where", ["a dry run reckons with this machine only; leave --where out"])
    if arguments.dry_run and arguments.preview:
        raise ConfigError("--preview", ["a dry run draws nothing; leave --preview out"])


def revisions(given: list[str]) -> list[str]:
    """Turn ``text=REV`` into the setting it stands for.

    Raises:
        ConfigError: it names neither encoder.
    """
    from odmt.errors import ConfigError

    for item in given:
        modality, equals, revision = item.partition("=")
        if modality not in ("text", "image") or not equals or not revision:
            raise ConfigError("--revision", [f"{item!r} is neither text=REV nor image=REV"])
    return [f"features.{modality}.revision={revision!r}" for modality, _, revision in (i.partition("=") for i in given)]


def wanted(
    arguments: argparse.Namespace, assignments: list[str]
) -> "tuple[str, list[TextEncoderConfig], list[ImageEncoderConfig], PrepareConfig]":
    """Return the data set, the encoders to prepare for, and how to prepare.

    Raises:
        ConfigError: the space, or a setting, is not possible.
    """
    from odmt.config import DataConfig, from_mapping
    from odmt.errors import ConfigError

    asked = arguments.dataset
    if asked is not None:
        from_mapping(DataConfig, {"dataset": asked}, "--dataset")
    ignored = [item.partition("=")[0] for item in assignments if not item.startswith(READ_HERE)]
    if ignored:
        raise ConfigError("--set", [f"{key}: prepare.py reads prepare.* and features.* only" for key in ignored])
    name = arguments.space
    if name is None and (CHECKOUT / "search_spaces" / f"{asked or 'demo'}.yaml").is_file():
        name = asked or "demo"
    if name is None:
        return asked or "demo", *without_space(arguments.tiny_encoders, assignments)
    from odmt.tuning.space import load_space

    space = load_space(name, assignments, preparing=True)
    return asked or space.base.data.dataset, *space.encoders(), space.prepare


def without_space(
    tiny: bool, assignments: list[str]
) -> "tuple[list[TextEncoderConfig], list[ImageEncoderConfig], PrepareConfig]":
    """Return encoders and settings of a data set that has no space: the authors', or the tiny ones."""
    from odmt.config import FeaturesConfig, PrepareConfig, replace_values
    from odmt.config.loading import parse_assignments

    features = FeaturesConfig()
    if tiny:
        from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT

        features = FeaturesConfig(text=TINY_TEXT, image=TINY_IMAGE)
    values: dict[str, dict[str, Any]] = {"prepare": {}, "features": {}}
    for key, value in parse_assignments(assignments).items():
        section, _, path = key.partition(".")
        values[section][path] = value
    settings = replace_values(PrepareConfig(), values["prepare"], "--set prepare")
    features = replace_values(features, values["features"], "--set features")
    return [features.text], [features.image], settings


def on_ray(plan: "PreparePlan", stack: ExitStack) -> "PreparePlan":
    """Join the Ray that RAY_ADDRESS names, and let encoders run there.

    Raises:
        ConfigError: RAY_ADDRESS is not set.
        ServiceError: that Ray does not answer.
    """
    import dataclasses

    from odmt.cluster.connect import choose_place, connect, disconnect

    place = choose_place("attach")
    connect(place, feature_bytes=0)
    stack.callback(disconnect)
    print(f"encoders run on {place.sentence}", flush=True)
    from odmt.cluster.remote_encoding import RemoteEncoding

    return dataclasses.replace(plan, open_encoding=RemoteEncoding)


def carry_out(home: "Home", plan: "PreparePlan") -> "list[StageReport]":
    """Run the stages, saying what each did."""
    from odmt.experiment.prepare import prepare

    def tell(report: "StageReport") -> None:
        state = "done" if report.changed else "read back" if report.stage == "verify" else "up to date"
        print(f"  {report.stage:<9}{state:<11}{report.seconds:6.1f} s  {report.summary}", flush=True)
        for note in report.notes:
            print(f"{'':<22}{note}", flush=True)

    return prepare(home, plan, tell)


def forecast(home: "Home", plan: "PreparePlan") -> int:
    """Say what the stages would do."""
    from odmt.experiment.dry_run import forecast_stages

    for stage, sentences in forecast_stages(home, plan):
        for number, sentence in enumerate(sentences):
            print(f"  {stage if number == 0 else '':<10}{sentence}", flush=True)
    print("nothing was done: --dry-run")
    return 0


def say_next(arguments: argparse.Namespace, dataset: str, features: list[str]) -> None:
    """Print the command that searches on what was prepared, if a space for it is known."""
    space = arguments.space or (dataset if (CHECKOUT / "search_spaces" / f"{dataset}.yaml").is_file() else None)
    if space is not None:
        words = ["python", "launch/tune.py", "--space", space]
        if arguments.space is not None and arguments.dataset is not None and dataset != space:
            words += ["--set", f"data.dataset={dataset}"]
        print("next: " + shlex.join([*words, *(word for item in features for word in ("--set", item))]))


if __name__ == "__main__":
    sys.exit(main())
