"""Pictures of the demo data set: the item's look is a colour and a shape; place, size, shade and ground vary."""

import numpy as np
from PIL import Image, ImageDraw

_COLOURS = (
    (214, 40, 40),
    (38, 90, 200),
    (40, 160, 70),
    (235, 190, 30),
    (140, 50, 170),
    (30, 175, 185),
    (240, 125, 30),
    (60, 55, 60),
    (240, 130, 180),
    (120, 75, 40),
)
_SHAPES = ("disc", "bars", "frame", "cross")
NUM_LOOKS = len(_COLOURS)


def draw(rng: np.random.Generator, look: int, size: int) -> Image.Image:
    """Draw one picture of a look.

    Args:
        rng: source of the jitter.
        look: 0 to ``NUM_LOOKS - 1``; each has a colour of its own, every fourth the same shape.
        size: pixels a side.
    """
    colour = _jittered(rng, _COLOURS[look], 18)
    shape = _SHAPES[look % len(_SHAPES)]
    ground = int(rng.integers(200, 250))
    image = Image.new("RGB", (size, size), _jittered(rng, (ground, ground, ground), 5))
    radius = size * rng.uniform(0.30, 0.42)
    x, y = (size * rng.uniform(0.44, 0.56) for _ in range(2))
    _paint(ImageDraw.Draw(image), shape, colour, (x - radius, y - radius, x + radius, y + radius))
    noise = rng.integers(-8, 9, size=(size, size, 3))
    return Image.fromarray(np.clip(np.asarray(image).astype(np.int64) + noise, 0, 255).astype(np.uint8))


def _jittered(rng: np.random.Generator, colour: tuple[int, int, int], by: int) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(value + rng.integers(-by, by + 1), 0, 255)) for value in colour)
    return red, green, blue


def _paint(
    pen: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], box: tuple[float, float, float, float]
) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if shape == "disc":
        pen.ellipse(box, fill=colour)
    elif shape == "bars":
        for third in (0.0, 0.4, 0.8):
            pen.rectangle((left, top + third * height, right, top + (third + 0.2) * height), fill=colour)
    elif shape == "frame":
        pen.rectangle(box, outline=colour, width=max(2, round(width * 0.22)))
    else:
        pen.rectangle((left + 0.36 * width, top, right - 0.36 * width, bottom), fill=colour)
        pen.rectangle((left, top + 0.36 * height, right, bottom - 0.36 * height), fill=colour)
