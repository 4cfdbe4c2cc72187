"""The third stage: each encoder's features of every item that somebody met."""

from odmt.commands import duration, size
from odmt.data.imported import read_import
from odmt.data.interactions import (
    Catalogue,
    content_digest,
    prepare_command,
    read_catalogue,
    read_interactions,
    readable_digest,
)
from odmt.errors import MissingDataError
from odmt.experiment.images_stage import own_tables
from odmt.experiment.prepare_plan import PreparePlan, StageReport
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT, make_tiny_encoders, tiny_encoders_exist
from odmt.features.encoding import LocalEncoding
from odmt.features.extract import extract
from odmt.features.images import open_images, read_entries
from odmt.features.store import feature_store_path, has_other_precision, held_manifest, modality_of, model_folder
from odmt.home import Home


def run_features(home: Home, plan: PreparePlan) -> StageReport:
    """Extract what is missing of every encoder.

    Raises:
        MissingDataError: the images stage has not run since the last import, or an encoder is not there.
        FeatureStoreError: a store is unreadable.
        NonFiniteError: an encoder gave what float16 does not hold.
    """
    folder = home.dataset(plan.dataset)
    check_tables(home, plan)
    catalogue = read_catalogue(folder)
    rows = read_interactions(folder, catalogue).occurring_rows
    made = plan.tiny_encoders and _make_tiny_encoders(home, plan, catalogue)
    words = ["made tiny encoders"] if made else []
    for encoder in plan.encoders:
        result = extract(home, plan.dataset, encoder, catalogue, rows, plan.settings, plan.open_encoding)
        made = made or result.extracted > 0
        how = f" in {duration(result.seconds)} on {result.where}" if result.extracted else ""
        words.append(
            f"{modality_of(encoder)} {encoder.model}: {result.extracted:,} of {result.total:,} extracted{how}, "
            f"{size(result.path.stat().st_size)}"
        )
    return StageReport("features", made, "; ".join(words) or "no encoders asked for")


def check_encoders(home: Home, plan: PreparePlan) -> None:
    """Check that the encoders can be had, before hours of other work: of a hub's the configuration is fetched.

    Raises:
        MissingDataError: one can not; says where to put it.
        ConfigError: its name is that of a folder here too, or its settings do not fit it.
        DataError: the hub does not tell its commit.
    """
    folder = home.dataset(plan.dataset)
    for encoder in plan.encoders:
        if plan.tiny_encoders and encoder.model in (TINY_TEXT.model, TINY_IMAGE.model):
            continue
        if model_folder(encoder, folder):
            continue
        held = held_manifest(feature_store_path(home, plan.dataset, encoder))
        if held and held["complete"] and not has_other_precision(held, plan.settings.precision):
            continue
        if plan.open_encoding is LocalEncoding:  # elsewhere it is the nodes that must reach the hub
            from odmt.features.loading import loading

            with loading(encoder, folder):
                pass


def check_tables(home: Home, plan: PreparePlan) -> None:
    """Check that the data set's own tables follow from its import and its image store.

    Raises:
        MissingDataError: they do not: the images stage has to run first.
    """
    folder = home.dataset(plan.dataset)
    imported = read_import(folder)
    with open_images(folder) as store:
        manifest, entries = store.manifest(), read_entries(store)
    bad = {item: entry.reason for item, entry in entries.items() if entry.reason}
    tables = own_tables(imported, bad if manifest["policy"] == "drop" else {})
    if not manifest["complete"] or readable_digest(folder) != content_digest(tables.interactions, tables.catalogue):
        raise MissingDataError(
            f"data set {plan.dataset!r}: the images stage has not run to its end since the last import; run: "
            f"{prepare_command(plan.dataset)}"
        )


def _make_tiny_encoders(home: Home, plan: PreparePlan, catalogue: Catalogue) -> bool:
    folder = home.dataset(plan.dataset)
    return not tiny_encoders_exist(folder) and make_tiny_encoders(folder, catalogue.titles)
