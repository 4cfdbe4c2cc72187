"""A synthetic data set from latent tastes, in the authors' Amazon layout, the same bytes for the same seed.

Every item has three independent latent attributes: a theme that only its title tells, a look that only its picture
tells, and a circle that neither tells, so that only co-occurrence (the ID) can. A user's taste in each attribute
drifts as a Markov chain; the next item is drawn among those not yet met by popularity times a factor for each
attribute that matches. So ID, text and image each carry signal that the others lack, and popularity alone is weak.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from odmt.data.demo_images import NUM_LOOKS, draw
from odmt.data.demo_titles import NUM_THEMES, title

NUM_CIRCLES = 10
SHORTEST, LONGEST, MEAN_LENGTH = 5, 20, 9.5
POPULARITY_POWER = 0.3
MATCH_FACTOR = 50.0
STAY = 0.88
FOLLOW = 0.09  # else a value at random


class Attributes(NamedTuple):
    """The latent value of every item, int64 ``(items,)`` each."""

    theme: np.ndarray
    look: np.ndarray
    circle: np.ndarray


def generate(folder: Path, num_users: int = 2000, num_items: int = 500, seed: int = 7, image_size: int = 32) -> None:
    """Write ``demo_user_behaviours.tsv``, ``demo_text.tsv`` and ``images/*.png``; appears whole or not at all.

    Args:
        folder: target, replaced if it exists.
        num_users: lines of the behaviours file, 5 to 20 items each.
        num_items: items with title and picture; at least 25.
        seed: the same seed gives the same bytes.
        image_size: pixels a side.
    """
    if num_items < LONGEST + SHORTEST:
        raise ValueError(f"num_items: {num_items} is below {LONGEST + SHORTEST}; a user meets up to {LONGEST} items")
    rng = np.random.default_rng(seed)
    attributes = _attributes(rng, num_items)
    sequences = _sequences(rng, attributes, num_users)
    titles = [title(rng, int(theme)) for theme in attributes.theme]
    digits = max(4, len(str(num_items)))
    names = [f"i{number:0{digits}d}" for number in range(1, num_items + 1)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (temporary / "images").mkdir()
        for name, look in zip(names, attributes.look, strict=True):
            draw(rng, int(look), image_size).save(temporary / "images" / f"{name}.png")
        lines = [f"{name}\t{text}\n" for name, text in zip(names, titles, strict=True)]
        (temporary / "demo_text.tsv").write_text("".join(lines), encoding="utf-8")
        lines = [f"u{user:05d}\t{' '.join(names[item] for item in items)}\n" for user, items in enumerate(sequences, 1)]
        (temporary / "demo_user_behaviours.tsv").write_text("".join(lines), encoding="utf-8")
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _attributes(rng: np.random.Generator, num_items: int) -> Attributes:
    columns = [rng.permutation(np.arange(num_items) % count) for count in (NUM_THEMES, NUM_LOOKS, NUM_CIRCLES)]
    return Attributes(*columns)


def _sequences(rng: np.random.Generator, attributes: Attributes, num_users: int) -> list[np.ndarray]:
    """Walk all users at once, one step an item.

    Sampling is the Gumbel trick: the largest of log-weight plus noise is a draw in proportion to the weights.
    """
    num_items = len(attributes.theme)
    log_popularity = -POPULARITY_POWER * np.log(1.0 + rng.permutation(num_items))
    lengths = np.clip(SHORTEST + rng.poisson(MEAN_LENGTH - SHORTEST, num_users), SHORTEST, LONGEST)
    counts = (NUM_THEMES, NUM_LOOKS, NUM_CIRCLES)
    tastes = [rng.integers(count, size=num_users) for count in counts]
    successors = [_cycle(rng, count) for count in counts]
    met = np.zeros((num_users, num_items), dtype=bool)
    walks = np.zeros((num_users, LONGEST), dtype=np.int64)
    everyone = np.arange(num_users)
    for step in range(LONGEST):
        scores = np.tile(log_popularity, (num_users, 1))
        for values, taste in zip(attributes, tastes, strict=True):
            scores += np.log(MATCH_FACTOR) * (values == taste[:, None])
        scores += rng.gumbel(size=scores.shape)
        scores[met] = -np.inf
        walks[:, step] = scores.argmax(axis=1)
        met[everyone, walks[:, step]] = True
        tastes = [_drift(rng, taste, after) for taste, after in zip(tastes, successors, strict=True)]
    return [walk[:length] for walk, length in zip(walks, lengths, strict=True)]


def _cycle(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return, for each value, the one that tends to come next; all values lie on one circle."""
    order = rng.permutation(count)
    successor = np.empty(count, dtype=np.int64)
    successor[order] = np.roll(order, -1)
    return successor


def _drift(rng: np.random.Generator, taste: np.ndarray, successor: np.ndarray) -> np.ndarray:
    chance = rng.random(len(taste))
    elsewhere = rng.integers(len(successor), size=len(taste))
    return np.where(chance < STAY, taste, np.where(chance < STAY + FOLLOW, successor[taste], elsewhere))
