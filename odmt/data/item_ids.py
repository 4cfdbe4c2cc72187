"""What an external item id may be: it names a file, a record and a word of a line."""

from odmt.errors import DataError

_LONGEST = 500  # bytes; LMDB takes keys up to 511


def check_item_id(item: str, place: str) -> None:
    """Check one id.

    Args:
        item: the id.
        place: where it stands, for the sentence.

    Raises:
        DataError: it is empty, too long, or holds what no file name, key or word may.
    """
    if not item:
        raise DataError(f"{place}: has no item id")
    for bad in ("/", "\\", "..", "\0"):
        if bad in item:
            raise DataError(f"{place}: item id {item!r} holds {bad!r}, which no picture's file name may")
    if any(character.isspace() for character in item):
        raise DataError(f"{place}: item id {item!r} holds a blank, at which behaviours are split")
    if len(item.encode()) > _LONGEST:
        raise DataError(f"{place}: item id {item[:20]!r}... has {len(item.encode())} bytes, more than {_LONGEST}")
