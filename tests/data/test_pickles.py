"""No pickle of the authors', or of anybody else, can make this reader call something."""

import contextlib
import os
import pickle
import pickletools

import numpy as np
import pytest
from corpora import pickled_image

from odmt.data.pickles import PickledImage, read_pickle
from odmt.errors import DataError


class Hostile:
    """A pickle of this runs a command when it is read by the usual reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_authors_class_is_read_with_its_attributes(protocol):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    held = read_pickle(pickled_image(pixels, "B1", protocol=protocol), "x")
    assert isinstance(held, PickledImage)
    assert vars(held) == {"channels": 3, "size": (2, 4), "image": pixels.tobytes(), "id": "B1"}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_are_read(protocol):
    value = {
        "a": [1, 2.5, None, True],
        "b": ("x", b"y" if protocol > 2 else "y"),
        "c": {-1, 2**70} if protocol > 3 else 1,
    }
    assert read_pickle(pickle.dumps(value, protocol=protocol), "x") == value


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_not_run(protocol, tmp_path):
    content = pickle.dumps(Hostile(tmp_path / "run"), protocol=protocol)
    with pytest.raises(DataError, match=r"the\.lmdb: is not a pickle that is safe to read: it uses REDUCE"):
        read_pickle(content, "the.lmdb")
    assert not (tmp_path / "run").exists()
    pickle.loads(content)
    assert (tmp_path / "run").exists()  # the usual reader runs it


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"cos\nsystem\n.", "it asks for os.system"),
        (b"\x80\x04\x8c\x08__main__\x8c\x05Other\x93.", "it asks for __main__.Other"),
        (b"c__main__\nLMDB_Image.get_image\n.", "it asks for __main__.LMDB_Image.get_image"),
        (b"(S'id'\nios\nsystem\n.", "it uses INST"),
        (b"(cos\nsystem\nS'id'\no.", "it uses OBJ"),
        (b"cos\nsystem\n)}\x92.", "it uses NEWOBJ_EX"),
        (b"\x82\x01.", "it uses EXT1"),
        (b"Pid\n.", "it uses PERSID"),
        (b"Nr\xff\xff\xff\x7f.", "it remembers something at place 2147483647"),
        (b"c__main__\nLMDB_Image\n)R.", "it uses REDUCE"),
        (b"c__main__\nLMDB_Image\nNK\x01\x85\x81.", ""),
        (b"", ""),
        (b"\x80\x04K\x01", ""),
        (b"garbage", ""),
    ],
)
def test_everything_else_is_refused(content, sentence):
    with pytest.raises(DataError, match=f"x: is not a pickle that is safe to read: {sentence}"):
        read_pickle(content, "x")


def test_tuples_that_would_take_for_ever_to_hash_are_refused():
    nested = ()
    for _ in range(100):
        nested = (nested, nested)
    content = b"\x80\x04}" + pickle.dumps(nested, protocol=4)[2:-1] + b"K\x01s."
    with pytest.raises(DataError, match="it holds 100 tuples, more than any picture needs"):
        read_pickle(content, "x")
    twice = b"\x80\x04}K\x01\x85q\x00h\x00\x86Ns."
    assert pickle.loads(twice) == {((1,), (1,)): None}
    with pytest.raises(DataError, match="it holds 2 tuples, more than any picture needs"):
        read_pickle(twice, "x")


def test_tuples_that_are_nested_too_deeply_to_be_hashed_are_refused():
    content = b"\x80\x04}" + b")" + b"\x85" * 2_000_000 + b"Ns."
    with pytest.raises(DataError, match="it holds 2000000 tuples, more than any picture needs"):
        read_pickle(content, "x")


def test_a_tuple_of_ids_may_hold_the_same_one_twice():
    name = "B1"
    assert read_pickle(pickle.dumps((name, name)), "x") == ("B1", "B1")


def test_a_pickle_that_changes_the_class_changes_it_for_itself_only():
    poisoned = b"\x80\x02c__main__\nLMDB_Image\n(N}X\x05\x00\x00\x00imageX\x01\x00\x00\x00xs\x86b."
    assert [op.name for op, _, _ in pickletools.genops(poisoned)][-2:] == ["BUILD", "STOP"]
    with contextlib.suppress(DataError):
        read_pickle(poisoned, "x")
    assert not hasattr(PickledImage, "image")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_pickle_that_is_cut_off_is_refused(share):
    content = pickled_image(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="is not a pickle that is safe to read"):
        read_pickle(content[: int(len(content) * share)], "x")
