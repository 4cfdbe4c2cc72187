"""One encoded picture: what is decoded, and what is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from odmt.errors import DataError
from odmt.features.pictures import decode, pixels


def png(colour, size=(4, 3), mode="RGB"):
    return encoded(Image.new(mode, size, colour), "PNG")


def encoded(image, kind, **options):
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def png_of_size(width, height):
    """A PNG that only claims to be so large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (png_of_size(10_000, 10_000), "has too many pixels, more than 89,478,485"),
        (png_of_size(50_000, 50_000), "has too many pixels"),
        (encoded(Image.new("RGB", (64, 64), "red"), "JPEG")[:400], "cannot be decoded"),
        (b"", "is no JPEG"),
        (b"\x93NUMPY nonsense", "cannot be read as float pixels"),
    ],
)
def test_pictures_that_are_none_are_refused_with_the_reason(content, sentence):
    with pytest.raises(DataError, match=sentence):
        decode(content)


def test_odd_pictures_are_decoded():
    assert decode(png("red", (1, 1))).size == (1, 1)
    cmyk = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert cmyk.mode == "RGB"
    red, green, blue = np.asarray(cmyk)[4, 4].tolist()
    assert red > 200 > 60 > max(green, blue)
    frames = [Image.new("P", (8, 8), 0), Image.new("P", (8, 8), 1)]
    for frame in frames:
        frame.putpalette([0, 255, 0, 0, 0, 255])
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(moving))[0, 0].tolist() == [0, 255, 0]  # the first frame
    assert np.asarray(decode(png("white", mode="L"))).shape == (3, 4, 3)
    deep = Image.fromarray(np.full((4, 4), 0x8040, dtype=np.uint16))
    assert np.asarray(decode(encoded(deep, "PNG")))[0, 0].tolist() == [0x80] * 3


def test_pictures_are_squeezed_to_the_square_as_pillow_does():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels(encoded(image, "PNG"), 32), expected)
