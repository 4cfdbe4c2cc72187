"""The authors' image LMDBs, losslessly; and everything that is wrong with one."""

import io
import pickle

import numpy as np
import pytest
from corpora import normalised, pickled_image, write_legacy_lmdb
from PIL import Image

from odmt.errors import DataError
from odmt.features.legacy_images import LegacyImages, whole_numbers
from odmt.features.pictures import decode, encode_floats, holds_floats, pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def with_size(opcode):
    """Return a pickled picture whose height is what an opcode puts there."""
    content = pickled_image(PIXELS)
    assert content.count(b"K\x05K\x07\x86") == 1
    without_frame = content[:2] + content[11:]  # a frame would have to say its new length
    return without_frame.replace(b"K\x05K\x07\x86", opcode + b"K\x07\x86")


@pytest.fixture
def lmdb_of(tmp_path):
    def write(images=None, values=None, bare=False):
        write_legacy_lmdb(tmp_path / "a.lmdb", images or {}, bare, values)
        return tmp_path / "a.lmdb"

    return write


def test_raw_pixels_are_kept_losslessly_as_png(lmdb_of):
    with LegacyImages(lmdb_of({b"B1": PIXELS})) as images:
        assert images.holds(b"B1")
        assert not images.holds(b"B2")
        content = images.picture(b"B1")
    assert content.startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(decode(content)), PIXELS)


def test_a_folder_that_holds_an_lmdb_is_read_too(lmdb_of, tmp_path):
    path = lmdb_of({b"B1": PIXELS})
    (tmp_path / "folder.lmdb").mkdir()
    path.rename(tmp_path / "folder.lmdb" / "data.mdb")
    with LegacyImages(tmp_path / "folder.lmdb") as images:
        np.testing.assert_array_equal(np.asarray(decode(images.picture(b"B1"))), PIXELS)


@pytest.mark.parametrize("bare", [True, False])
def test_normalised_floats_go_back_to_the_pixels_they_came_from(bare, lmdb_of):
    with LegacyImages(lmdb_of({b"1": normalised(png(PIXELS))}, bare=bare)) as images:
        content = images.picture(b"1")
    expected = np.asarray(Image.fromarray(PIXELS).resize((224, 224), Image.Resampling.BILINEAR))
    assert not holds_floats(content)
    np.testing.assert_array_equal(np.asarray(decode(content)), expected)


def test_every_whole_number_comes_back_from_its_float():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, axis=0)
    floats = (every.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_array_equal(whole_numbers(floats), every.transpose(1, 2, 0))


def test_floats_that_are_no_whole_numbers_are_kept_as_they_are(lmdb_of):
    floats = normalised(png(PIXELS))
    floats[1, 2, 3] = np.nextafter(floats[1, 2, 3], np.float32(2))
    with LegacyImages(lmdb_of({b"1": floats}, bare=True)) as images:
        content = images.picture(b"1")
    assert holds_floats(content)
    np.testing.assert_array_equal(pixels(content, 224), floats)
    assert pixels(content, 32).shape == (3, 32, 32)
    assert pixels(content, 32).dtype == np.float32
    assert decode(content).size == (224, 224)


def test_a_grey_picture_has_one_channel(lmdb_of):
    with LegacyImages(lmdb_of({b"1": PIXELS[:, :, :1]})) as images:
        np.testing.assert_array_equal(np.asarray(decode(images.picture(b"1")))[:, :, 2], PIXELS[:, :, 0])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (pickle.dumps([1, 2]), "is a pickled list in the LMDB, not a picture"),
        (pickle.dumps(print), "record 'B1': is not a pickle that is safe to read: it asks for builtins.print"),
        (b"junk", "record 'B1': is not a pickle that is safe to read"),
        (pickled_image(PIXELS)[:-40], "is not a pickle that is safe to read"),
        (pickled_image(np.zeros((4, 4, 2), np.uint8)), "has 2 channels in the LMDB; expected 1, 3 or 4"),
        (pickled_image(PIXELS, bare=True), r"holds 105 bytes of pixels in the LMDB, which do not fit its size \(224"),
        (pickled_image(np.zeros((4, 4, 3), np.float32)), r"holds float pixels \(4, 4, 3\) in the LMDB; expected \(3,"),
        (pickled_image(np.full((3, 224, 224), np.nan, np.float32), bare=True), "holds pixels in the LMDB that are not"),
        (pickled_image(np.zeros((0, 4, 3), np.uint8)), "has a size or a number of channels in the LMDB outside 1 to"),
        (with_size(b"\x88"), "has no two whole numbers as its size and one of channels in the LMDB, but tuple and int"),
        (with_size(b"\x8a\x10" + b"\x7f" * 16), "has a size or a number of channels in the LMDB outside 1 to 89,478"),
    ],
)
def test_a_record_that_is_no_picture_is_told_with_the_reason(value, sentence, lmdb_of):
    with LegacyImages(lmdb_of({}, {b"B1": value})) as images, pytest.raises(DataError, match=sentence):
        images.picture(b"B1")


def test_an_item_that_is_not_there_is_told(lmdb_of):
    with LegacyImages(lmdb_of({b"B1": PIXELS})) as images, pytest.raises(DataError, match="is not in the LMDB"):
        images.picture(b"B2")


def test_float_pixels_that_do_not_fill_their_shape_are_refused():
    content = encode_floats(np.zeros((3, 4, 4), np.float32))
    np.testing.assert_array_equal(pixels(content, 4), np.zeros((3, 4, 4)))
    for damaged, sentence in [
        (content[:-4], "holds 188 bytes of float pixels, expected 192"),
        (
            content.replace(b"(3, 4, 4)", b"(4, 4, 3)"),
            r"holds float32 \(4, 4, 3\), expected float32 \(3, height, width",
        ),
        (content.replace(b"(3, 4, 4), ", b"(3, 9**9, 4)"), "cannot be read as float pixels"),
        (content.replace(b"4, 4), }       ", b"40000, 9999), }"), "has too many pixels"),
        (content.replace(b"\x01\x00", b"\x02\x00", 1), "cannot be read as float pixels"),
    ]:
        with pytest.raises(DataError, match=sentence):
            pixels(damaged, 4)


def test_an_lmdb_that_is_missing_cut_off_or_of_another_version_is_named(lmdb_of, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.lmdb: does not exist"):
        LegacyImages(tmp_path / "nowhere.lmdb")
    (tmp_path / "empty.lmdb").mkdir()
    with pytest.raises(DataError, match=r"empty\.lmdb/data\.mdb: does not exist"):
        LegacyImages(tmp_path / "empty.lmdb")
    path = lmdb_of({str(number).encode(): PIXELS.repeat(20, axis=0) for number in range(200)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.lmdb: is cut off: \d+ of \d+ bytes; fetch it again"):
        LegacyImages(path)
    path.write_bytes(whole[:20] + b"\x63" + whole[21:])  # the version in the first page's header
    with pytest.raises(DataError, match=r"a\.lmdb: is not a readable LMDB \(.*v99 is not supported.*\); fetch it"):
        LegacyImages(path)
    path.write_bytes(b"junk" * 5000)
    with pytest.raises(DataError, match=r"a\.lmdb: is not a readable LMDB"):
        LegacyImages(path)
