"""Made pictures and corpora of any size, in the authors' Amazon layout."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = [
    "acrylic",
    "brush",
    "canvas",
    "clay",
    "crayon",
    "easel",
    "felt",
    "glitter",
    "glue",
    "gouache",
    "ink",
    "marker",
]


def picture(rng: np.random.Generator, side: int = 224) -> bytes:
    """Return a JPEG of soft colours with some grain: 10 to 20 KB at 224 pixels, like a shop's."""
    soft = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-12, 13, (side, side, 1), dtype=np.int16)
    pixels = np.clip(np.asarray(soft, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def write_corpus(folder: Path, *, items: int, users: int, distinct: int = 2000, seed: int = 0) -> int:
    """Write behaviours, texts and pictures; return the pictures' bytes.

    Args:
        folder: made if missing.
        items: pictures and texts.
        users: with 5 to 15 items each, drawn evenly; as many as items, or more.
        distinct: pictures that are really drawn; each file differs in its last bytes, which decoders pass over.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"B{number:09d}" for number in rng.choice(10**9, items, replace=False)]
    drawn = [picture(rng) for _ in range(min(distinct, items))]
    num_bytes = 0
    for number, name in enumerate(names):
        content = drawn[number % len(drawn)] + name.encode()
        (folder / "images" / f"{name}.jpg").write_bytes(content)
        num_bytes += len(content)
    lengths = rng.integers(6, 16, items)
    texts = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    _write(folder / "arts_text.tsv", [f"{name}\t{text}" for name, text in zip(names, texts, strict=True)])
    # The item of the user's own number comes last, so that every item is met.
    rows = [
        f"u{user:06d}\t{' '.join(names[item] for item in (*rng.integers(0, items, rng.integers(4, 15)), user % items))}"
        for user in range(users)
    ]
    _write(folder / "arts_user_behaviours.tsv", rows)
    return num_bytes


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
