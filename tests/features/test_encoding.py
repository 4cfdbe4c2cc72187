"""Encoders at work: decoding in other processes, several devices, results in order and always the same."""

import numpy as np
import pytest
import torch
from PIL import Image

from odmt.config import PrepareConfig
from odmt.data.sources.common import Pictures
from odmt.errors import FeatureStoreError
from odmt.features.decoding import decoded_batches
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT, make_tiny_encoders
from odmt.features.encoding import Inputs, LocalEncoding, chosen_precision
from odmt.features.image_import import fill_image_store
from odmt.features.images import digest_of, image_digests, write_pictures
from odmt.features.picture_places import locate
from odmt.features.pictures import encode_floats, encode_png, pixels
from odmt.features.records import RecordFile

ITEMS = [f"i{number:02d}" for number in range(23)]
TITLES = {item: "red pen " * (1 + number % 4) + str(number) for number, item in enumerate(ITEMS)}
BATCHES = [ITEMS[start : start + 5] for start in range(0, len(ITEMS), 5)]
FLOATS, BLANK = "i07", "i08"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set's folder with tiny encoders and pictures: one of floats, one blank."""
    target = tmp_path_factory.mktemp("dataset")
    make_tiny_encoders(target, list(TITLES.values()))
    rng = np.random.default_rng(0)
    images = target / "images"
    images.mkdir()
    for item in ITEMS:
        if item not in (FLOATS, BLANK):
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(images / f"{item}.png")
    (images / f"{FLOATS}.png").write_bytes(encode_floats(rng.uniform(-1, 1, (3, 32, 32)).astype(np.float32)))
    located = locate(Pictures(folder=str(images)), ITEMS, {})
    fill_image_store(target, ITEMS, located, "blank")
    return target


@pytest.fixture(scope="module")
def inputs(folder):
    return Inputs(folder, TITLES, image_digests(folder))


def run(encoding):
    return [features for batch in encoding.run(BATCHES) for features in batch]


@pytest.mark.parametrize("encoder", [TINY_TEXT, TINY_IMAGE], ids=["text", "image"])
def test_batches_come_in_order_whatever_works_on_them(encoder, inputs):
    plain = LocalEncoding(encoder, inputs, PrepareConfig(workers=0), ["cpu"])
    several = LocalEncoding(encoder, inputs, PrepareConfig(workers=2), ["cpu", "cpu", "cpu"])
    expected = run(plain)
    assert len(expected) == len(ITEMS)
    for found, wanted in zip(run(several), expected, strict=True):
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, wanted)


def test_encoding_in_threads_touches_no_setting_of_the_whole_process(inputs, monkeypatch):
    encoding = LocalEncoding(TINY_IMAGE, inputs, PrepareConfig(workers=0), ["cpu", "cpu"])
    cudnn = torch.backends.cudnn
    assert (cudnn.deterministic, cudnn.allow_tf32) == (True, False)
    monkeypatch.setattr(cudnn, "flags", lambda *_, **__: pytest.fail("cuDNN was set"))
    monkeypatch.setattr("odmt.features.loading.quiet_transformers", lambda: pytest.fail("warnings were set"))
    assert len(run(encoding)) == len(ITEMS)


def test_each_item_gets_its_own_features(inputs):
    encoding = LocalEncoding(TINY_IMAGE, inputs, PrepareConfig(workers=0), ["cpu"])
    together = dict(zip(ITEMS, run(encoding), strict=True))
    for item in (ITEMS[0], FLOATS, BLANK, ITEMS[-1]):
        ((alone,),) = encoding.run([[item]])
        np.testing.assert_allclose(alone, together[item], atol=2e-2)
    differences = [np.abs(together[ITEMS[0]] - together[item]).max() for item in ITEMS[1:]]
    assert min(differences) > 0.1


def test_tokens_are_counted_before_anything_is_computed(inputs):
    text = LocalEncoding(TINY_TEXT, inputs, PrepareConfig(), ["cpu"])
    assert text.count_tokens(ITEMS) == sum(len(features) for features in run(text))
    image = LocalEncoding(TINY_IMAGE, inputs, PrepareConfig(), ["cpu"])
    assert image.count_tokens(ITEMS[:3]) == 3 * 5


@pytest.mark.parametrize("workers", [0, 2])
def test_pixels_are_those_of_the_stored_pictures(workers, folder, inputs):
    path = folder / "images.lmdb"
    found = [array for batch in decoded_batches(path, inputs.digests, BATCHES, 32, workers) for array in batch]
    with RecordFile(path) as store, store.view() as view:
        for item, array in zip(ITEMS, found, strict=True):
            expected = np.full((32, 32, 3), 128) if item == BLANK else pixels(bytes(view.get(item)), 32)
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stored_picture_that_no_longer_decodes_is_named(workers, tmp_path):
    with RecordFile(tmp_path / "images.lmdb", write=True) as store:
        store.write({}, {"format": "odmt-images-2", "complete": True, "policy": "fail"})
        write_pictures(store, {}, {"a": encode_png(np.zeros((4, 4, 3), np.uint8)), "b": b"damaged"})
    digests = {item: digest_of(b"") for item in "abc"}
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: picture of item 'b' is no JPEG"):
        list(decoded_batches(tmp_path / "images.lmdb", digests, [["a"], ["b"]], 8, workers))
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: holds no picture of item 'c'"):
        list(decoded_batches(tmp_path / "images.lmdb", digests, [["c"]], 8, workers))


def test_half_precision_is_for_gpus_unless_it_is_asked_for():
    assert chosen_precision("auto", "cpu") == "fp32"
    assert chosen_precision("auto", "cuda:1") == "fp16"
    assert chosen_precision("bf16", "cpu") == "bf16"


def test_a_narrower_arithmetic_stays_near(inputs):
    wide = run(LocalEncoding(TINY_IMAGE, inputs, PrepareConfig(workers=0, precision="fp32"), ["cpu"]))
    narrow = run(LocalEncoding(TINY_IMAGE, inputs, PrepareConfig(workers=0, precision="bf16"), ["cpu"]))
    differences = [float(np.abs(a.astype(float) - b).max()) for a, b in zip(wide, narrow, strict=True)]
    assert 0 < max(differences) < 0.2
