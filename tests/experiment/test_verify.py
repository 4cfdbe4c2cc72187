"""Everything is read back, and what is wrong is named."""

import shutil

import numpy as np
import pytest
from corpora import make_corpus, write_amazon, write_ks
from PIL import Image

from odmt.config import PrepareConfig
from odmt.errors import FeatureStoreError
from odmt.experiment.prepare import prepare
from odmt.experiment.prepare_plan import PreparePlan, with_stages
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT
from odmt.features.images import open_images
from odmt.features.records import RecordFile
from odmt.features.store import feature_records, feature_store_path, held_digests
from odmt.home import Home


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    source = write_amazon(folder / "source", make_corpus(folder / "corpus"))
    (source / "images" / "i0003.png").unlink()
    prepare(Home(folder / "home"), plan(source))
    return folder


@pytest.fixture
def home(pristine, tmp_path):
    shutil.copytree(pristine / "home", tmp_path / "home")
    return Home(tmp_path / "home")


def plan(source=None, **changes):
    encoders = {"tiny_encoders": True, "text_encoders": (TINY_TEXT,), "image_encoders": (TINY_IMAGE,)}
    return PreparePlan(
        dataset="arts", source=source, settings=PrepareConfig(missing_images="blank"), **encoders | changes
    )


def verify(home, **changes):
    (report,) = prepare(home, with_stages(plan(**changes), "verify"))
    return report


def test_the_report_fits_a_screen_and_tells_counts_lengths_and_what_is_blank(home):
    report = verify(home)
    text = "\n".join(report.notes)
    assert report.summary == "everything reads back"
    assert len(report.notes) <= 12
    assert max(len(line) for line in report.notes) <= 120
    assert "60 with 534 interactions: 5 to " in text
    assert "30, of them 30 met; titles of" in text
    assert "30: 29 PNG, 1 grey ones in place of missing; " in text
    assert "32 x 32 to 32 x 32 pixels" in text
    assert "./encoders/text: 30 items x " in text
    assert "./encoders/image: 30 items x 5.0 tokens (5 to 5) x 64" in text


def test_what_was_read_back_is_not_read_again_unless_that_is_asked_for_or_something_changed(home, monkeypatch):
    first = verify(home)
    monkeypatch.setattr("odmt.experiment.verify_stage.decode", lambda content: pytest.fail("decoded"))
    report = prepare(home, plan(stages=("verify",)))[0]
    assert report.summary.startswith("unchanged since it was read back on ")
    assert report.notes == first.notes
    monkeypatch.undo()
    with RecordFile(feature_store_path(home, "arts", TINY_TEXT), write=True) as store:
        store.write({}, store.manifest() | {"note": 1})
    assert prepare(home, plan(stages=("verify",)))[0].summary == "everything reads back"


def test_a_picture_that_no_longer_decodes_or_is_another_is_named(home):
    path = home.dataset("arts") / "images.lmdb"
    with RecordFile(path) as store, store.view() as view:
        other = bytes(view.get("i0005"))
    for content, sentence in ((b"damaged", "is no JPEG"), (other, "is not the one that was stored")):
        with RecordFile(path, write=True) as store:
            store.write({"i0004": content})
        with pytest.raises(FeatureStoreError, match=rf"images\.lmdb: picture of item 'i0004' {sentence}.*1 of 30"):
            verify(home)


def test_features_that_are_no_numbers_are_named(home):
    path = feature_store_path(home, "arts", TINY_TEXT)
    with RecordFile(path, write=True) as store:
        digest = held_digests(store)["i0004"]
        records = feature_records("i0004", digest, np.zeros((2, 64), np.float16))
        import zlib

        payload = np.full((2, 64), np.nan, np.float16).tobytes()
        records["i0004"] = digest + zlib.crc32(payload).to_bytes(4, "little") + payload
        store.write(records)
    with pytest.raises(FeatureStoreError, match=r"text-.*\.lmdb: holds NaN or infinite features"):
        verify(home)


def test_the_preview_is_a_picture_of_items_with_their_pictures(home):
    report = verify(home, preview=True)
    path = home.dataset("arts") / "preview.png"
    assert report.notes[-1] == f"preview   {path}"
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 8 * 144
        assert sheet.height > 4 * 144  # thirty items in rows of eight
        colours = len(sheet.getcolors(2**24))
    assert colours > 500
    before = path.read_bytes()
    verify(home, preview=True)
    assert path.read_bytes() == before


def test_float_pictures_are_counted_as_such(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    source = write_ks(tmp_path / "source", corpus)
    home = Home(tmp_path / "home")
    report = prepare(home, plan(source))[-1]
    assert any("30: 30 PNG; " in note for note in report.notes)  # their floats went back to whole numbers
    with open_images(home.dataset("arts")) as store, store.view() as view:
        assert bytes(view.get("1")).startswith(b"\x89PNG")
