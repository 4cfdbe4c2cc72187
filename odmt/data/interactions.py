"""A prepared data set: who met which item in what order, and the items' titles; both as Parquet.

``catalogue.parquet`` (item_id, title) has the order of the text file. ``interactions.parquet`` (user, items) keeps one
row a line of the behaviours file and names items by their EXTERNAL ids. Both carry digests of their logical
content: the pair counts as one data set only while the interactions name the digest of the catalogue beside them.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from odmt.errors import DataError, MissingDataError

if TYPE_CHECKING:
    import pyarrow as pa

INTERACTIONS_FILE = "interactions.parquet"
CATALOGUE_FILE = "catalogue.parquet"
_CATALOGUE_DIGEST = b"odmt.catalogue_digest"
_DATASET_DIGEST = b"odmt.dataset_digest"


class Interactions(NamedTuple):
    """Sequences of items, rows in file order; the same user may stand on two of them.

    Attributes:
        users: external user id of each row.
        offsets: int64 ``(rows + 1,)``; row ``r`` owns ``items[offsets[r]:offsets[r + 1]]``, oldest first.
        items: int32, catalogue rows.
    """

    users: list[str]
    offsets: np.ndarray
    items: np.ndarray

    @property
    def occurring_rows(self) -> np.ndarray:
        """Catalogue rows that at least one sequence holds, ascending."""
        return np.unique(self.items)


class Catalogue(NamedTuple):
    """Items in the order of the text file."""

    item_ids: list[str]
    titles: list[str]


def restricted(interactions: Interactions, keep: np.ndarray) -> Interactions:
    """Return the interactions of a mask; users that have none left go.

    Args:
        interactions: the sequences.
        keep: bool, one an interaction.
    """
    lengths = np.add.reduceat(keep, interactions.offsets[:-1], dtype=np.int64)  # no user is without interactions
    users = [user for user, length in zip(interactions.users, lengths.tolist(), strict=True) if length]
    offsets = np.zeros(len(users) + 1, dtype=np.int64)
    np.cumsum(lengths[lengths > 0], out=offsets[1:])
    return Interactions(users, offsets, interactions.items[keep])


def prepare_command(dataset: str) -> str:
    """Return the command that prepares a data set."""
    source = "" if dataset == "demo" else " --source DIR"
    return f"python launch/prepare.py --dataset {dataset}{source}"


def catalogue_digest(catalogue: Catalogue) -> str:
    """Return a hex digest of all item ids and titles, order included."""
    digest = hashlib.blake2b(digest_size=16)
    for texts in catalogue:
        _update(digest, texts)
    return digest.hexdigest()


def content_digest(interactions: Interactions, catalogue: Catalogue) -> str:
    """Return the hex digest of a data set that lies in memory; equals ``dataset_digest`` once it is written."""
    digest = hashlib.blake2b(catalogue_digest(catalogue).encode(), digest_size=16)
    _update(digest, interactions.users)
    digest.update(np.ascontiguousarray(interactions.offsets, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(interactions.items, dtype="<i4").tobytes())
    return digest.hexdigest()


def _update(digest: "hashlib.blake2b", texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    digest.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
    digest.update(b"".join(encoded))


def write_dataset(folder: Path, interactions: Interactions, catalogue: Catalogue) -> None:
    """Write both tables; a reader sees the old pair, the new pair, or is told that there is none.

    Args:
        folder: the data set's folder, made if missing.
        interactions: sequences of catalogue rows.
        catalogue: the items.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = catalogue_digest(catalogue)
    titles = pa.table(
        {"item_id": pa.array(catalogue.item_ids, pa.string()), "title": pa.array(catalogue.titles, pa.string())}
    )
    external = pa.array(catalogue.item_ids, pa.string()).take(pa.array(interactions.items))
    lists = pa.ListArray.from_arrays(pa.array(interactions.offsets.astype(np.int32)), external)
    sequences = pa.table({"user": pa.array(interactions.users, pa.string()), "items": lists})
    tables = {
        CATALOGUE_FILE: titles.replace_schema_metadata({_CATALOGUE_DIGEST: digest}),
        INTERACTIONS_FILE: sequences.replace_schema_metadata(
            {_CATALOGUE_DIGEST: digest, _DATASET_DIGEST: content_digest(interactions, catalogue)}
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=folder) as temporary:
        for name, table in tables.items():
            with open(Path(temporary) / name, "wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
        for name in tables:  # the interactions last: they make the pair valid
            os.replace(Path(temporary) / name, folder / name)


def read_catalogue(folder: Path) -> Catalogue:
    """Read the items of a prepared data set.

    Raises:
        MissingDataError: there is none, or its import was cut off; names the command.
        DataError: a file is not readable Parquet.
    """
    _pair_metadata(folder)
    table = _read(folder / CATALOGUE_FILE)
    return Catalogue(table.column("item_id").to_pylist(), table.column("title").to_pylist())


def read_interactions(folder: Path, catalogue: Catalogue) -> Interactions:
    """Read the sequences of a prepared data set as rows of its catalogue.

    Raises:
        MissingDataError: there is none, or its import was cut off; names the command.
        DataError: a file is not readable Parquet, or the catalogue is another data set's.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    metadata = _pair_metadata(folder)
    if metadata[_CATALOGUE_DIGEST].decode() != catalogue_digest(catalogue):
        raise DataError(f"{folder / INTERACTIONS_FILE}: belongs to another catalogue than the one given")
    table = _read(folder / INTERACTIONS_FILE)
    lists = table.column("items").combine_chunks()
    rows = pc.index_in(lists.flatten(), value_set=pa.array(catalogue.item_ids, pa.string()))
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False), out=offsets[1:])
    return Interactions(table.column("user").to_pylist(), offsets, rows.to_numpy(zero_copy_only=False).astype(np.int32))


def dataset_digest(folder: Path) -> str:
    """Return the hex digest of a data set's logical content: items, titles, users, sequences.

    Raises:
        MissingDataError: there is none, or its import was cut off; names the command.
        DataError: a file is not readable Parquet.
    """
    return _pair_metadata(folder)[_DATASET_DIGEST].decode()


def readable_digest(folder: Path) -> str | None:
    """Return the digest of a data set that reads back; None if there is none, or what is there is cut off.

    Raises:
        DataError: a file was not written by odmt, so that it is not ours to replace.
    """
    try:
        read_interactions(folder, read_catalogue(folder))
        return dataset_digest(folder)
    except MissingDataError:
        return None
    except DataError as error:
        if error.__cause__ is None:  # only what Parquet could not read has one
            raise
        return None


def dataset_exists(folder: Path) -> bool:
    """Return whether the folder holds a whole data set."""
    try:
        _pair_metadata(folder)
    except MissingDataError:
        return False
    return True


def _pair_metadata(folder: Path) -> dict[bytes, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[dict[bytes, bytes]] = []
    for name in (CATALOGUE_FILE, INTERACTIONS_FILE):
        path = folder / name
        if not path.is_file():
            raise _not_prepared(folder, f"{path} does not exist")
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: is not a readable Parquet file; {_again(folder)}") from error
        if _CATALOGUE_DIGEST not in metadata:
            raise DataError(f"{path}: was not written by odmt; {_again(folder)}")
        found.append(metadata)
    if found[0][_CATALOGUE_DIGEST] != found[1][_CATALOGUE_DIGEST]:
        raise _not_prepared(folder, f"{folder} holds a catalogue and interactions of two different imports")
    return found[1]


def _again(folder: Path) -> str:
    return f"delete it and run: {prepare_command(folder.name)}"


def _not_prepared(folder: Path, reason: str) -> MissingDataError:
    return MissingDataError(f"data set {folder.name!r} is not prepared: {reason}; run: {prepare_command(folder.name)}")


def _read(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not a readable Parquet file; {_again(path.parent)}") from error
