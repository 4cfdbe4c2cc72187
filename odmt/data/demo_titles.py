"""Titles of the demo data set: two words of the item's theme among words that tell nothing."""

import numpy as np

_THEMES = (
    ("Merino", "Yarn", "Wool"),
    ("Acrylic", "Paint", "Canvas"),
    ("Fabric", "Sewing", "Thread"),
    ("Glass", "Bead", "Beading"),
    ("Clay", "Pottery", "Kiln"),
    ("Paper", "Origami", "Cardstock"),
    ("Wood", "Carving", "Chisel"),
    ("Leather", "Awl", "Hide"),
    ("Candle", "Wax", "Wick"),
    ("Ink", "Calligraphy", "Nib"),
)
NUM_THEMES = len(_THEMES)

_MAKERS = ("Alder", "Brightside", "Corvo", "Dunmore", "Eastlake", "Fennel", "Greywood", "Halden")
_GOODS = ("Kit", "Set", "Pack", "Bundle", "Supplies", "Tools")
_EXTRAS = ("Large", "Small", "Assorted", "Premium", "Beginner", "Classic", "12 Pieces", "24 Pieces", "Deluxe", "Travel")


def title(rng: np.random.Generator, theme: int) -> str:
    """Compose a title such as ``Corvo Merino Yarn Kit, Assorted``."""
    first, second = rng.permutation(len(_THEMES[theme]))[:2]
    words = [_THEMES[theme][first], _THEMES[theme][second], str(rng.choice(_GOODS))]
    if rng.random() < 0.4:
        words.insert(0, str(rng.choice(_MAKERS)))
    composed = " ".join(words)
    return f"{composed}, {rng.choice(_EXTRAS)}" if rng.random() < 0.4 else composed
