"""H&M Personalized Fashion Recommendations (Kaggle, 2022), unpacked.

``transactions_train.csv`` has a row a bought piece (``t_dat``, ``customer_id``, ``article_id``), ``articles.csv``
describes the articles, and pictures lie in ``images/010/0108775015.jpg``: an article's first three digits name the
folder.
"""

from pathlib import Path

from odmt.data.events import Wanted, collect_events
from odmt.data.item_ids import check_item_id
from odmt.data.lines import Block
from odmt.data.parts import Parsed, PartReader
from odmt.data.sources.assembling import assemble, note, told_once
from odmt.data.sources.common import Form, Found, Pictures, Source, existing
from odmt.data.sources.tables import block_rows, check_columns, header_of, rows_of
from odmt.errors import DataError, MissingDataError

TEXT_COLUMNS = ("prod_name", "product_type_name", "graphical_appearance_name", "colour_group_name", "detail_desc")
_ARTICLE_DIGITS = 10  # other programs lose the leading zeros of 0108775015
_NEEDED = {"t_dat": r"\d{4}-\d{2}-\d{2}", "customer_id": r"\S+", "article_id": r"\d{1,18}"}


def find(folder: Path) -> Found | None:
    """Return the two tables.

    Raises:
        MissingDataError: the articles are missing.
    """
    transactions, articles = folder / "transactions_train.csv", folder / "articles.csv"
    if not transactions.is_file():
        return None
    if not articles.is_file():
        raise MissingDataError(f"{articles}: does not exist, but {transactions.name} does; the two belong together")
    files = {"transactions": transactions, "articles": articles}
    return Found("hm-kaggle", files, Pictures(folder=existing(folder / "images"), nested=True))


def read(found: Found, wanted: Wanted, work: Path) -> Source:
    """Read both tables; several pieces of an article on one day count once.

    Raises:
        DataError: a table lacks a column, is damaged, or nothing is left.
    """
    notes: dict[str, int] = {}
    titles = _read_articles(found.files["articles"], notes)
    path = found.files["transactions"]
    reader = PartReader(path, work, Transactions(path), "reading sales")
    bought = collect_events(reader.tables())
    events = told_once(reader, bought, notes, "further pieces of the same article on the same day")
    return Source(*assemble(events, titles, wanted, notes, "articles that articles.csv lacks"), None, notes)


def _read_articles(path: Path, notes: dict[str, int]) -> dict[str, str]:
    titles: dict[str, str] = {}
    repeated = 0
    for place, row in rows_of(path, ("article_id", *TEXT_COLUMNS)):
        item = row["article_id"].strip()
        check_item_id(item, place)
        if not (item.isascii() and item.isdigit()):
            raise DataError(f"{place}: article id {item!r} is not a number, by which its picture is found")
        item = item.zfill(_ARTICLE_DIGITS)
        repeated += item in titles
        titles.setdefault(item, " ".join(" ".join(row[name].split()) for name in TEXT_COLUMNS if row[name].strip()))
    note(notes, f"further lines of articles in {path.name}; the first counts", repeated)
    return titles


class Transactions:
    """Parses blocks of ``transactions_train.csv`` into user, item and time (the day, as in 20200922)."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            DataError: a column is missing.
        """
        self._path = path
        self._header = header_of(path)
        check_columns(path, self._header, tuple(_NEEDED))

    def __call__(self, block: Block) -> Parsed:
        """Parse one block."""
        import pyarrow as pa
        import pyarrow.compute as pc

        damaged: list[str] = []
        table = block_rows(self._path, block, self._header, _NEEDED, damaged)
        days = pc.cast(pc.replace_substring(table.column("t_dat"), "-", ""), pa.int64())
        items = pc.utf8_lpad(table.column("article_id"), _ARTICLE_DIGITS, padding="0")
        return Parsed(pa.table([table.column("customer_id"), items, days], names=["user", "item", "time"]), damaged)


HM_KAGGLE = Form(
    "hm-kaggle",
    "H&M Personalized Fashion Recommendations (Kaggle)",
    "articles.csv, transactions_train.csv, images/010/0108775015.jpg",
    find,
    read,
    core=(5, 1),
)
