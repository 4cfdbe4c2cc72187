"""The first stage: what a source holds becomes tables of ours."""

from pathlib import Path

from odmt.data import demo
from odmt.data.events import Wanted
from odmt.data.imported import (
    WORK_FOLDER,
    Imported,
    ImportRecord,
    forget_parts,
    read_import,
    read_record,
    read_whole,
    rewrite_record,
    stamps,
    write_import,
)
from odmt.data.sources.common import Form, Found
from odmt.data.sources.forms import FORMS, find_source, wanted_of
from odmt.errors import DataError
from odmt.experiment.prepare_plan import DEMO_SOURCE, PreparePlan, StageReport, counted, noted, source_folder
from odmt.home import Home


def run_import(home: Home, plan: PreparePlan) -> StageReport:
    """Import the source, unless what was imported before is still what it holds.

    Raises:
        MissingDataError: there is no source.
        DataError: the source is malformed; nothing of a former import is touched then.
    """
    folder = home.dataset(plan.dataset)
    if plan.generate_demo and not (folder / DEMO_SOURCE).is_dir():
        demo.generate(folder / DEMO_SOURCE)
    source = source_folder(home, plan)
    record = read_record(folder)
    if source is None:
        return _report(read_import(folder), changed=False)
    found = find_source(source, plan.settings.form)
    form = FORMS[found.form]
    plan.tell(f"source {source}: {form.title} ({', '.join(path.name for path in found.files.values())})")
    former = None if record is None else read_whole(folder, record)
    fresh = _record(source, found, form, plan)
    if former is not None and is_same(former.record, fresh):
        kept = former.record
        rewrite_record(folder, fresh._replace(notes=kept.notes, digest=kept.digest, addressed=kept.addressed))
        forget_parts(folder)
        return _report(former, changed=False)
    try:
        content = form.read(found, wanted_of_plan(form, plan), folder / WORK_FOLDER)
    except DataError:
        _leave_nothing(folder)
        raise
    written = write_import(folder, content, fresh._replace(notes=content.notes))
    imported = Imported(written, content.interactions, content.catalogue, content.urls or {})
    return _report(imported, changed=former is None or former.record.digest != written.digest)


def _record(source: Path, found: Found, form: Form, plan: PreparePlan) -> ImportRecord:
    wanted = wanted_of_plan(form, plan)
    core = [wanted.min_user, wanted.min_item]
    return ImportRecord(str(source), form.name, stamps(found), list(wanted), core, found.pictures, {}, "", None)


def wanted_of_plan(form: Form, plan: PreparePlan) -> Wanted:
    """Return what a plan takes of a source in some form."""
    settings = plan.settings
    return wanted_of(
        form,
        settings.min_user_interactions,
        settings.min_item_interactions,
        settings.max_users,
        settings.sample_seed,
    )


def is_same(former: ImportRecord, fresh: ImportRecord) -> bool:
    """Say whether the same of the same files was read."""
    return (former.form, former.files, former.selection) == (fresh.form, fresh.files, fresh.selection)


def is_current(former: Imported, found: Found, plan: PreparePlan) -> bool:
    """Say whether an import is what a source's files would give now."""
    return is_same(former.record, _record(next(iter(found.files.values())).parent, found, FORMS[found.form], plan))


def _report(imported: Imported, *, changed: bool) -> StageReport:
    summary = f"{FORMS[imported.record.form].title}: {counted(imported.interactions, imported.catalogue)}"
    return StageReport("import", changed, summary, notes=noted(imported.record))


def _leave_nothing(folder: Path) -> None:
    """Take away the folder of a first import that failed before it kept anything."""
    for path in (folder / WORK_FOLDER, (folder / WORK_FOLDER).parent):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
