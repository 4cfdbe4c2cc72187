"""What an import left behind: all that was read of a source, before items without a picture are dealt with.

``imported/`` holds the two tables of a data set, ``urls.parquet`` where the source names addresses of pictures, and
``import.json``, written last: without it the import counts as none.
"""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from odmt.data.interactions import (
    Catalogue,
    Interactions,
    content_digest,
    dataset_digest,
    prepare_command,
    read_catalogue,
    read_interactions,
    write_dataset,
)
from odmt.data.sources.common import Found, Pictures, Source
from odmt.errors import DataError, MissingDataError
from odmt.files import write_atomically

FOLDER = "imported"
WORK_FOLDER = "imported/parts"
_RECORD, _URLS = "import.json", "urls.parquet"
_FORMAT = "odmt-import-1"


class ImportRecord(NamedTuple):
    """Where an import came from, and what it left out.

    Attributes:
        source: the folder.
        form: which of the forms it is in.
        files: size and time of change, in nanoseconds, of every file that was read, by name.
        selection: what of the source was taken.
        core: fewest interactions of a user and of an item, which must still hold once items are dropped.
        pictures: where the pictures are.
        notes: what was left out or mended, and how often.
        digest: of the two tables.
        addressed: items in the table of addresses; None = the source names none.
    """

    source: str
    form: str
    files: dict[str, list[int]]
    selection: list[int | None]
    core: list[int]
    pictures: Pictures
    notes: dict[str, int]
    digest: str
    addressed: int | None


class Imported(NamedTuple):
    """An import, read back."""

    record: ImportRecord
    interactions: Interactions
    catalogue: Catalogue
    urls: dict[str, list[str]]


def stamps(found: Found) -> dict[str, list[int]]:
    """Return size and time of change of a source's files, by which a changed one is told."""
    stats = {path.name: path.stat() for path in found.files.values()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats.items())}


def write_import(folder: Path, source: Source, record: ImportRecord) -> ImportRecord:
    """Keep what was read of a source.

    Args:
        folder: the data set's folder.
        source: what was read.
        record: where it came from; digest and number of addresses are filled in.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = folder / FOLDER
    write_dataset(target, source.interactions, source.catalogue)
    if source.urls is not None:
        table = pa.table(
            [pa.array(list(source.urls), pa.string()), pa.array(list(source.urls.values()), pa.list_(pa.string()))],
            names=["item_id", "urls"],
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_atomically(target / _URLS, buffer.getvalue())
    else:
        (target / _URLS).unlink(missing_ok=True)
    addressed = None if source.urls is None else len(source.urls)
    whole = record._replace(digest=dataset_digest(target), addressed=addressed)
    rewrite_record(folder, whole)
    forget_parts(folder)
    return whole


def forget_parts(folder: Path) -> None:
    """Delete what a stopped import would have gone on from."""
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)


def rewrite_record(folder: Path, record: ImportRecord) -> None:
    """Keep where an import came from, if that has changed: the source may have moved."""
    path = folder / FOLDER / _RECORD
    named = {"format": _FORMAT, **record._asdict(), "pictures": record.pictures._asdict()}
    content = json.dumps(named, indent=1).encode()  # ASCII: a path may hold bytes that are no text
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


def read_record(folder: Path) -> ImportRecord | None:
    """Return what is known of a data set's import; None if there was none, or it was cut off.

    Raises:
        DataError: the record is damaged.
    """
    path = folder / FOLDER / _RECORD
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("another format")
        return ImportRecord(**{**content, "pictures": Pictures(**content["pictures"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is damaged ({error}); delete it and run the import again with --source DIR"
        ) from error


def read_import(folder: Path) -> Imported:
    """Return a data set's import.

    Raises:
        MissingDataError: there is none.
        DataError: it is damaged.
    """
    record = read_record(folder)
    if record is None:
        raise MissingDataError(f"data set {folder.name!r} has never been imported into {folder}")
    target = folder / FOLDER
    imported = read_whole(folder, record)
    if imported is None:
        raise DataError(f"{target}: is damaged or was cut off; run: {prepare_command(folder.name)}")
    return imported


def read_whole(folder: Path, record: ImportRecord) -> Imported | None:
    """Return an import whose tables are what its record says, else None."""
    target = folder / FOLDER
    try:
        catalogue = read_catalogue(target)
        interactions = read_interactions(target, catalogue)
    except DataError:
        return None
    if content_digest(interactions, catalogue) != record.digest:
        return None
    urls = {} if record.addressed is None else _read_urls(target / _URLS)
    if urls is None or len(urls) != (record.addressed or 0):
        return None
    return Imported(record, interactions, catalogue, urls)


def _read_urls(path: Path) -> dict[str, list[str]] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns: Mapping[str, list[Any]] = table.to_pydict()
        return dict(zip(columns["item_id"], columns["urls"], strict=True))
    except (pa.ArrowException, OSError, KeyError):
        return None
