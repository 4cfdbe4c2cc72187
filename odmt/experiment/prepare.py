"""Prepare a data set in four stages: import, images, features, verify.

Each stage does only what is missing or out of date, so the same command goes on after an interruption and says
"up to date" when there is nothing to do.
"""

import time
from collections.abc import Callable

from odmt.data.ownership import owned, sweep
from odmt.data.sources.forms import find_source
from odmt.experiment.features_stage import check_encoders, run_features
from odmt.experiment.images_stage import run_images
from odmt.experiment.import_stage import run_import
from odmt.experiment.prepare_plan import PreparePlan, StageReport, source_folder
from odmt.experiment.verify_stage import run_verify
from odmt.home import Home

BODIES: dict[str, Callable[[Home, PreparePlan], StageReport]] = {
    "import": run_import,
    "images": run_images,
    "features": run_features,
    "verify": run_verify,
}


def prepare(home: Home, plan: PreparePlan, on_stage: Callable[[StageReport], None] | None = None) -> list[StageReport]:
    """Run the stages of a plan.

    Args:
        home: the root of all data.
        plan: what to prepare.
        on_stage: called after every stage.

    Raises:
        MissingDataError: the source, or an encoder, is not there.
        ConfigError: an encoder's name or settings are not possible, or the source has no addresses to fetch from.
        DataError: the source is malformed, an encoder cannot be used, pictures are missing or broken, or another
            process prepares the data set.
        FeatureStoreError: a store is unreadable, the disk is too small, or what was written does not read back.
        ServiceError: pictures are to be fetched and their server cannot be reached.
    """
    source = source_folder(home, plan)
    if "import" in plan.stages and source is not None and not plan.generate_demo:
        find_source(source, plan.settings.form)  # what is wrong with it is told before what may be with an encoder
    if "features" in plan.stages:
        check_encoders(home, plan)
    reports = []
    folder = home.dataset(plan.dataset)
    with owned(folder):
        for stage in plan.stages:
            started = time.perf_counter()
            sweep(folder)
            reports.append(BODIES[stage](home, plan)._replace(seconds=time.perf_counter() - started))
            if on_stage:
                on_stage(reports[-1])
    return reports
