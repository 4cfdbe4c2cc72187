"""Which of the six forms lies in a folder."""

from pathlib import Path

from odmt.data.events import Wanted
from odmt.data.sources.amazon_2018 import AMAZON_2018
from odmt.data.sources.common import Form, Found
from odmt.data.sources.hm_kaggle import HM_KAGGLE
from odmt.data.sources.microlens import MICROLENS
from odmt.data.sources.release import AMAZON, HM, KS
from odmt.errors import DataError, MissingDataError

FORMS: dict[str, Form] = {form.name: form for form in (AMAZON, KS, HM, AMAZON_2018, HM_KAGGLE, MICROLENS)}


def find_source(folder: Path, wanted: str = "auto") -> Found:
    """Return the files of the one form that lies in a folder.

    Args:
        folder: the source.
        wanted: the form to take; ``auto`` = the only one there.

    Raises:
        MissingDataError: there is no folder, no form in it, or half of one.
        DataError: there are several.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{folder}: is not a folder; expected one with{_layouts(wanted)}")
    found: list[Found] = []
    halves: list[MissingDataError] = []
    for form in FORMS.values():
        if wanted in ("auto", form.name):
            try:
                files = form.find(folder)
            except MissingDataError as error:
                halves.append(error)
                continue
            if files is not None:
                found.append(files)
    if len(found) > 1:
        names = " and ".join(f"{files.form} ({next(iter(files.files.values())).name})" for files in found)
        raise DataError(f"{folder}: holds {names}; say which with --set prepare.form={found[0].form}")
    if found:
        return found[0]
    if halves:
        raise halves[0]
    raise MissingDataError(f"{folder}: holds no source that is known; expected{_layouts(wanted)}")


def wanted_of(form: Form, min_user: int | None, min_item: int | None, max_users: int | None, seed: int) -> Wanted:
    """Return what is taken of a source: as configured, else as its form says."""
    user, item = form.core
    drawn = (max_users, seed) if max_users is not None else (None, 1)  # no draw, no seed
    return Wanted(user if min_user is None else min_user, item if min_item is None else min_item, *drawn)


def _layouts(wanted: str) -> str:
    if wanted in FORMS:
        return f" {FORMS[wanted].layout}"
    return "".join(f"\n  {form.name}: {form.layout}" for form in FORMS.values())
