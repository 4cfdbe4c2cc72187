import numpy as np
import pytest
from PIL import Image

from odmt.data.demo import generate
from odmt.data.demo_images import NUM_LOOKS, draw
from odmt.data.demo_titles import NUM_THEMES, title
from odmt.data.events import Wanted
from odmt.data.sources.forms import find_source
from odmt.data.sources.release import read_release
from odmt.features.picture_places import picture_files


def read_amazon(folder):
    return read_release(find_source(folder), Wanted(), folder / "work")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("demo") / "source"
    generate(target, num_users=300, num_items=60, seed=3)
    return target


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder, tmp_path):
    generate(tmp_path / "again", num_users=300, num_items=60, seed=3)
    generate(tmp_path / "other", num_users=300, num_items=60, seed=4)
    assert content(tmp_path / "again") == content(folder)
    assert content(tmp_path / "other")["demo_user_behaviours.tsv"] != content(folder)["demo_user_behaviours.tsv"]


def test_it_reads_as_the_amazon_layout_with_a_picture_an_item(folder):
    source = read_amazon(folder)
    assert (len(source.interactions.users), len(source.catalogue.item_ids)) == (300, 60)
    assert sorted(picture_files(folder / "images")) == source.catalogue.item_ids
    with Image.open(folder / "images" / "i0001.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_users_have_5_to_20_items_none_twice(folder):
    interactions = read_amazon(folder).interactions
    lengths = np.diff(interactions.offsets)
    assert (lengths.min(), lengths.max() <= 20) == (5, True)
    assert 9 <= lengths.mean() <= 10
    for start, end in zip(interactions.offsets[:-1], interactions.offsets[1:], strict=True):
        assert len(set(interactions.items[start:end])) == end - start


def test_too_few_items_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_items: 10 is below 25"):
        generate(tmp_path / "x", num_items=10)
    assert not (tmp_path / "x").exists()


def test_two_titles_of_a_theme_always_share_a_word():
    rng = np.random.default_rng(0)
    for theme in range(NUM_THEMES):
        first, second = ({word.strip(",") for word in title(rng, theme).split()} for _ in range(2))
        assert first & second


def test_looks_differ_more_than_two_pictures_of_one():
    rng = np.random.default_rng(0)
    pictures = np.array([[np.asarray(draw(rng, look, 32)).ravel() for _ in range(4)] for look in range(NUM_LOOKS)])
    means = pictures.astype(float).mean(axis=1)
    between = np.linalg.norm(means[:, None] - means, axis=2)[np.triu_indices(NUM_LOOKS, 1)]
    within = np.linalg.norm(pictures - means[:, None], axis=2)
    assert between.mean() > within.mean()
