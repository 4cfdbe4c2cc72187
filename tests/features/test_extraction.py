from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from odmt.config import TextEncoderConfig
from odmt.data.interactions import Catalogue, Interactions, write_dataset
from odmt.errors import FeatureStoreError, MissingDataError, NonFiniteError
from odmt.features import extract as extraction
from odmt.features.extract import fill_store
from odmt.features.images import digest_of
from odmt.features.records import RecordFile
from odmt.features.shards import load_features
from odmt.features.store import encoder_spec, feature_store_path
from odmt.home import Home

ITEMS = [f"item{number}" for number in range(150)]
TITLES = [f"Title {number}" for number in range(150)]
CATALOGUE = Catalogue(ITEMS, TITLES)
HUB = TextEncoderConfig(model="some/hub-model", layer=-1)
WHAT = {"encoder": encoder_spec(HUB, Path("nowhere"))}


def digests(titles=TITLES):
    return {item: digest_of(title.encode()) for item, title in zip(ITEMS, titles, strict=True)}


class Encoder:
    """Item n has n % 3 + 1 tokens of width 2, all n; it breaks down after so many batches."""

    width, max_tokens, commit, precision, where = 2, 3, None, "fp32", "a test"

    def __init__(self, batches=None, **changes):
        self.seen = []
        self.batches = batches
        for name, value in changes.items():
            setattr(self, name, value)

    def count_tokens(self, items):
        return len(items) * self.max_tokens

    def run(self, batches):
        for items in batches:
            if self.batches is not None and len(self.seen) >= self.batches:
                raise KeyboardInterrupt
            self.seen.append(list(items))
            yield [self.features(int(item[4:])) for item in items]

    def features(self, number):
        return np.full((number % 3 + 1, self.width), number, dtype=np.float16)

    @property
    def items(self):
        return [item for batch in self.seen for item in batch]


@pytest.fixture
def home(tmp_path):
    items = np.array([2, 0, 149, 5, 0], dtype=np.int32)
    write_dataset(tmp_path / "data" / "arts", Interactions(["u"], np.array([0, 5]), items), CATALOGUE)
    return Home(tmp_path)


@pytest.fixture
def path(home):
    return feature_store_path(home, "arts", HUB)


def fill(path, encoder, wanted=None, batch_size=64, precision="auto"):
    wanted = dict(sorted((wanted or digests()).items()))
    return fill_store(path, WHAT, wanted, lambda: encoder, "test", batch_size, precision).extracted


def test_features_are_aligned_with_the_catalogue_in_float16(home, path):
    fill(path, Encoder())
    features = load_features(home, "arts", HUB, CATALOGUE, np.arange(150))
    assert {shard.tokens.dtype for shard in features.shards} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(features.lengths[:5], [1, 2, 3, 1, 2])
    assert [features.tokens_of(row)[:, 0].tolist() for row in range(3)] == [[0], [1, 1], [2, 2, 2]]
    np.testing.assert_array_equal(features.tokens_of(149), [[149, 149]] * 3)


def test_rows_that_are_not_needed_get_no_tokens(home, path):
    fill(path, Encoder())
    features = load_features(home, "arts", HUB, CATALOGUE)  # the rows of the interactions: 0, 2, 5, 149
    np.testing.assert_array_equal(np.flatnonzero(features.lengths), [0, 2, 5, 149])


def test_an_extraction_that_is_cut_off_goes_on_where_it_stopped(home, path):
    first = Encoder(batches=1)
    with pytest.raises(KeyboardInterrupt):
        fill(path, first)
    with pytest.raises(FeatureStoreError, match=r"extraction was cut off; run: python launch/prepare\.py"):
        load_features(home, "arts", HUB, CATALOGUE)
    second = Encoder()
    assert fill(path, second) == 150 - 64
    assert sorted(first.items + second.items) == sorted(ITEMS)
    whole = load_features(home, "arts", HUB, CATALOGUE, np.arange(150))
    path.unlink()
    fill(path, Encoder())
    again = load_features(home, "arts", HUB, CATALOGUE, np.arange(150))
    for row in range(150):
        np.testing.assert_array_equal(whole.tokens_of(row), again.tokens_of(row))


def test_a_second_run_loads_no_encoder(path):
    fill(path, Encoder())
    before = path.read_bytes()
    assert fill_store(path, WHAT, digests(), lambda: pytest.fail("loaded"), "test", 64).extracted == 0
    assert path.read_bytes() == before


def test_a_grown_catalogue_and_a_changed_title_extract_only_themselves(home, path):
    fill(path, Encoder(), {item: digest for item, digest in digests().items() if item != "item7"})
    titles = ["New title", *TITLES[1:]]
    again = Encoder()
    assert fill(path, again, digests(titles)) == 2
    assert sorted(again.items) == ["item0", "item7"]
    load_features(home, "arts", HUB, CATALOGUE._replace(titles=titles), np.arange(150))


def test_missing_features_name_the_command(home):
    with pytest.raises(
        MissingDataError, match=r"'arts' has no text features of some/hub-model .*run: .*--dataset arts"
    ):
        load_features(home, "arts", HUB, CATALOGUE)


def test_stale_and_partial_features_are_refused(home, path):
    fill(path, Encoder(), {item: digest for item, digest in digests().items() if item != "item7"})
    load_features(home, "arts", HUB, CATALOGUE, np.array([6, 8]))
    with pytest.raises(FeatureStoreError, match="has no features of item 'item7'"):
        load_features(home, "arts", HUB, CATALOGUE, np.array([6, 7]))
    with pytest.raises(FeatureStoreError, match="features of item 'item6' are stale"):
        load_features(home, "arts", HUB, CATALOGUE._replace(titles=["x"] * 150), np.array([6]))


def test_a_flipped_bit_is_found(home, path):
    fill(path, Encoder())
    with RecordFile(path, write=True) as store:
        with store.view() as view:
            record = bytearray(view.get("item5"))
        record[-1] ^= 1
        store.write({"item5": bytes(record)})
    with pytest.raises(FeatureStoreError, match="features of item 'item5' are damaged"):
        load_features(home, "arts", HUB, CATALOGUE)


def test_an_unreadable_or_foreign_store_is_refused(home, path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"junk" * 4096)
    with pytest.raises(FeatureStoreError, match=r"is not a readable LMDB file.*; run: python launch/prepare\.py"):
        load_features(home, "arts", HUB, CATALOGUE)
    path.unlink()
    with RecordFile(path, write=True) as store:
        store.write({}, {"format": "odmt-images-1"})
    with pytest.raises(FeatureStoreError, match="has format 'odmt-images-1', expected 'odmt-features-2'"):
        load_features(home, "arts", HUB, CATALOGUE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_before_they_are_stored(path, value, monkeypatch):
    broken = Encoder()
    monkeypatch.setattr(broken, "features", lambda number: np.full((1, 2), value, dtype=np.float16))
    with pytest.raises(NonFiniteError, match=r"features of item 'item0' are not finite .*prepare\.precision=fp32"):
        fill(path, broken)
    with RecordFile(path) as store, store.view() as view:
        assert not store.manifest()["complete"]
        assert view.get("item0") is None
    assert fill(path, Encoder()) == 150


def test_an_extraction_that_is_cut_off_in_its_first_batch_is_repeated(home, path):
    with pytest.raises(KeyboardInterrupt):
        fill(path, Encoder(batches=0))
    with pytest.raises(FeatureStoreError, match="extraction was cut off"):
        load_features(home, "arts", HUB, CATALOGUE)
    assert fill(path, Encoder()) == 150
    load_features(home, "arts", HUB, CATALOGUE)


@pytest.mark.parametrize("content", ["no bytes", "no records"])
def test_a_store_that_was_opened_and_never_written_counts_as_empty(home, path, content):
    path.parent.mkdir(parents=True)
    if content == "no bytes":
        path.touch()
    else:
        RecordFile(path, write=True).close()
    with pytest.raises(FeatureStoreError, match=r"\.lmdb: is empty; run: python launch/prepare\.py"):
        load_features(home, "arts", HUB, CATALOGUE)
    assert fill(path, Encoder()) == 150
    load_features(home, "arts", HUB, CATALOGUE)


@pytest.mark.parametrize("changes", [{"commit": "new"}, {"max_tokens": 4}])
def test_features_of_two_versions_of_an_encoder_are_never_mixed(home, path, changes):
    former, cut_off = Encoder(), Encoder(batches=1, **changes)
    fill(path, former, dict(list(digests().items())[:100]))
    with pytest.raises(KeyboardInterrupt):
        fill(path, cut_off)
    for file, encoder in ((path, former), (path.with_name(f"{path.name}.next"), cut_off)):
        with RecordFile(file) as store, store.view() as view:
            assert {item for item in ITEMS if view.get(item)} == set(encoder.items)
    assert fill(path, Encoder(**changes)) == 150 - 64
    load_features(home, "arts", HUB, CATALOGUE)


def test_a_new_width_extracts_everything_again(home, path):
    fill(path, Encoder(), dict(list(digests().items())[:100]))
    assert fill(path, Encoder(width=3)) == 150
    assert load_features(home, "arts", HUB, CATALOGUE, np.arange(150)).width == 3


def test_batches_are_taken_in_the_order_of_keys_and_are_the_same_after_an_interruption(path, tmp_path):
    whole, first, second = Encoder(), Encoder(batches=3), Encoder()
    fill(tmp_path / "whole.lmdb", whole, batch_size=20)
    with pytest.raises(KeyboardInterrupt):
        fill(path, first, batch_size=20)
    fill(path, second, batch_size=20)
    assert first.seen + second.seen == whole.seen
    assert whole.items == sorted(ITEMS)


def test_the_manifest_says_how_fast_and_in_which_arithmetic(path):
    fill(path, Encoder(), dict(list(digests().items())[:100]))
    fill(path, Encoder(precision="fp16"))
    with RecordFile(path) as store:
        manifest = store.manifest()
    assert manifest["precisions"] == ["fp16", "fp32"]
    assert manifest["items_per_second"] > 0


def precisions(path):
    with RecordFile(path) as store:
        return store.manifest()["precisions"]


def test_a_store_of_another_precision_than_the_one_asked_for_is_extracted_again(home, path):
    fill(path, Encoder())
    assert fill(path, Encoder(precision="bf16")) == 0  # auto: what is there is kept
    cut_off = Encoder(batches=1, precision="bf16")
    with pytest.raises(KeyboardInterrupt):
        fill(path, cut_off, precision="bf16")
    assert fill(path, Encoder(precision="bf16"), precision="bf16") == 150 - 64
    assert precisions(path) == ["bf16"]
    assert fill(path, Encoder(precision="bf16"), precision="bf16") == 0
    load_features(home, "arts", HUB, CATALOGUE)


def test_features_stay_until_those_of_another_precision_are_whole(home, path):
    fill(path, Encoder())
    with pytest.raises(KeyboardInterrupt):
        fill(path, Encoder(batches=1, precision="bf16"), precision="bf16")
    assert precisions(path) == ["fp32"]
    load_features(home, "arts", HUB, CATALOGUE)
    assert fill(path, Encoder()) == 0  # and whoever no longer wants the others is rid of them
    assert [file.name for file in path.parent.iterdir() if ".next" in file.name] == []


def test_a_successor_of_a_third_precision_is_begun_anew(path):
    fill(path, Encoder())
    with pytest.raises(KeyboardInterrupt):
        fill(path, Encoder(batches=1, precision="bf16"), precision="bf16")
    assert fill(path, Encoder(precision="fp16"), precision="fp16") == 150
    assert precisions(path) == ["fp16"]


def test_a_store_of_two_precisions_becomes_one_of_the_one_asked_for(path):
    fill(path, Encoder(), dict(list(digests().items())[:100]))
    fill(path, Encoder(precision="fp16"))
    assert fill(path, Encoder(), precision="fp32") == 150
    assert precisions(path) == ["fp32"]


def test_a_store_of_another_encoder_under_the_right_name_is_refused(path):
    fill(path, Encoder())
    other = {"encoder": WHAT["encoder"] | {"layer": 3}}
    sentence = (
        r"\.lmdb: holds features of another encoder \(layer -1 instead of 3\); delete it and run: python "
        r"launch/prepare\.py --dataset arts"
    )
    with pytest.raises(FeatureStoreError, match=sentence):
        fill_store(path, other, digests(), lambda: pytest.fail("loaded"), "test", 64)


def test_an_error_of_the_encoder_advises_to_delete_nothing(path):
    def broken():
        raise FeatureStoreError("images.lmdb: picture of item 'b' is broken")

    with pytest.raises(FeatureStoreError, match=r"^images\.lmdb: picture of item 'b' is broken$"):
        fill_store(path, WHAT, digests(), broken, "test", 64)


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2**28 + 1000))
    encoder = Encoder()
    with pytest.raises(FeatureStoreError, match=r"\.lmdb: needs 0\.6 MB more and .* has 268\.4 MB free; free some"):
        fill(path, encoder)
    assert encoder.seen == []
    assert not path.exists()


def test_an_item_without_a_stored_picture_is_refused(home, monkeypatch):
    monkeypatch.setattr(extraction, "source_digests", lambda *_: {"item0": b""})
    with pytest.raises(FeatureStoreError, match="holds no picture of item 'item2'; run the images stage"):
        extraction.extract(home, "arts", HUB, CATALOGUE, np.array([0, 2]))
