"""One encoded picture: its bytes checked by decoding them, and made into the pixels that an encoder reads.

A picture is kept as it came (JPEG, PNG, WebP, GIF, BMP) or, where the authors' release holds nothing else, as the
float32 pixels ``(3, H, W)`` that they had normalised by mean and deviation 0.5, in NumPy's ``.npy`` format.
"""

import io
import math
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from odmt.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # pictures scraped from shops often lie about their suffix
SUFFIXES = ("jpg", "png", "webp", "gif", "bmp")
"""Of the file names that we give pictures, one a format."""
FILE_SUFFIXES = tuple(f".{suffix}" for suffix in (*SUFFIXES, "jpeg"))
"""Of the files that are taken for pictures, in lower case."""
MOST_PIXELS = 89_478_485
"""Pictures with more are refused: Pillow's own bound, a quarter of a gigabyte of RGB."""
_FLOATS_MAGIC = b"\x93NUMPY"
_FLOATS_VERSION = (1, 0)
_CHANNELS = 3


def decode(content: bytes | memoryview) -> Image.Image:
    """Decode a whole picture to RGB; of an animation the first frame, of 16 bits a channel the upper 8.

    Raises:
        DataError: the bytes are no whole picture, or one too large to be honest; without the file's name.
    """
    if holds_floats(content):
        return Image.fromarray(
            np.clip(np.rint((_floats(content) + 1) * 127.5), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        )
    # For the whole process: catch_warnings is not for several threads, and encoders run in others.
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:  # another thread may just have changed the filters
                raise Image.DecompressionBombError
            image.load()
            if image.mode.startswith("I"):
                return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"is no {', '.join(FORMATS)} picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"has too many pixels, more than {MOST_PIXELS:,}") from error
    except Exception as error:  # PIL's readers raise a dozen kinds on damaged bytes
        raise DataError(f"cannot be decoded ({error})") from error


def pixels(content: bytes | memoryview, size: int) -> np.ndarray:
    """Return a picture resized to a square without cropping, bilinear, as the authors do.

    Args:
        content: the encoded picture.
        size: pixels a side.

    Returns:
        uint8 ``(size, size, 3)``; of a picture kept as floats float32 ``(3, size, size)``, normalised by 0.5 and 0.5.

    Raises:
        DataError: the bytes are no whole picture; without the file's name.
    """
    if not holds_floats(content):
        return np.asarray(decode(content).resize((size, size), Image.Resampling.BILINEAR))
    floats = _floats(content)
    if floats.shape[1:] == (size, size):
        return floats
    channels = [Image.fromarray(channel).resize((size, size), Image.Resampling.BILINEAR) for channel in floats]
    return np.stack([np.asarray(channel) for channel in channels])


def holds_floats(content: bytes | memoryview) -> bool:
    """Say whether a picture is kept as normalised floats."""
    return bytes(content[: len(_FLOATS_MAGIC)]) == _FLOATS_MAGIC


def encode_floats(floats: np.ndarray) -> bytes:
    """Return the bytes under which normalised float32 pixels ``(3, H, W)`` are kept."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(floats, dtype="<f4"), allow_pickle=False)
    return buffer.getvalue()


def encode_png(values: np.ndarray) -> bytes:
    """Return the PNG bytes of uint8 pixels ``(H, W, 3)`` or ``(H, W)``: nothing is lost."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _floats(content: bytes | memoryview) -> np.ndarray:
    stream = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(stream) != _FLOATS_VERSION:
            raise ValueError("another version of the format")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # a damaged header raises whatever its text runs into
        raise DataError(f"cannot be read as float pixels ({error})") from error
    if dtype != np.float32 or by_column or len(shape) != 3 or shape[0] != _CHANNELS or min(shape) < 1:
        raise DataError(f"holds {dtype} {shape}, expected float32 (3, height, width)")
    if shape[1] * shape[2] > MOST_PIXELS:
        raise DataError(f"has too many pixels, more than {MOST_PIXELS:,}")
    start, num_bytes = stream.tell(), 4 * math.prod(shape)
    if len(content) - start != num_bytes:
        raise DataError(f"holds {len(content) - start} bytes of float pixels, expected {num_bytes}")
    view = np.frombuffer(content, dtype="<f4", offset=start)
    floats = view.reshape(shape).copy()  # the content may be LMDB's, and end with its transaction
    if not np.isfinite(floats).all():
        raise DataError("holds pixels that are not finite")
    return floats
