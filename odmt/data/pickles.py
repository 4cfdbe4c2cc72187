"""Read the authors' pickles without running what they hold.

A pickle may name any function to be called while it is read. So its opcodes are looked at first: those that call
something or point outside are refused. What is left makes plain containers, numbers and text, and instances of one
class, ``__main__.LMDB_Image``, for which a class without behaviour stands in.
"""

import io
import pickle
import pickletools
from typing import Any

from odmt.errors import DataError

_LARGEST = 256 * 2**20  # a pickle larger than any honest picture is none of the authors'
_MEMO = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_CALLS = frozenset(("REDUCE", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"))
_MOST_TUPLES = 4
_REPEATS = frozenset(("GET", "BINGET", "LONG_BINGET", "DUP"))
_HASHABLE = frozenset(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"))
_OUTSIDE = frozenset(("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"))
_NEWEST_PROTOCOL = 5  # what follows it may bring opcodes that nobody here has looked at


class PickledImage:
    """The attributes of the authors' ``LMDB_Image``: ``image`` bytes, and perhaps ``size``, ``channels``, ``id``."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != ("__main__", "LMDB_Image"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no picture needs")
        # One class a pickle: BUILD can set attributes of a class too, and none may outlive its pickle.
        return type("PickledImage", (PickledImage,), {})


def read_pickle(content: bytes | memoryview, where: str) -> Any:
    """Return what a pickle of plain containers or of one ``LMDB_Image`` holds.

    Args:
        content: the pickle.
        where: for the sentence.

    Raises:
        DataError: it is damaged, or asks for anything else; nothing of it was run.
    """
    try:
        if len(content) > _LARGEST:
            raise pickle.UnpicklingError(f"its {len(content):,} bytes are more than any picture has")
        _check_opcodes(bytes(content))
        return _Reader(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise DataError(f"{where}: is not a pickle that is safe to read: {error}") from error


def _check_opcodes(content: bytes) -> None:
    tuples = repeats = 0
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _MEMO:
            # The memo is an array: a huge place in it would be a huge array.
            if not isinstance(argument, int) or not 0 <= argument <= len(content):
                raise pickle.UnpicklingError(f"it remembers something at place {argument}")
        elif opcode.name in _CALLS or opcode.name in _OUTSIDE or opcode.proto > _NEWEST_PROTOCOL:
            raise pickle.UnpicklingError(f"it uses {opcode.name}, which neither containers nor pictures need")
        tuples += opcode.name in _HASHABLE
        repeats += opcode.name in _REPEATS
    # To hash deeply nested tuples ends the process; to hash tuples that hold each other many times takes for ever.
    if tuples > _MOST_TUPLES or (tuples > 1 and repeats):
        raise pickle.UnpicklingError(f"it holds {tuples} tuples, more than any picture needs")
