import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.data.interactions import Catalogue
from odmt.data.sources.amazon import picture_files
from odmt.errors import DataError, FeatureStoreError, MissingDataError
from odmt.features.images import build_image_store, digest_of, image_digests, read_images
from odmt.features.pictures import decode
from odmt.features.records import RecordFile
from odmt.features.store import items_digest
from odmt.home import Home


def png(colour, size=(4, 3)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue"), ("unused", "green")):
        (folder / f"{name}.png").write_bytes(png(colour))
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "arts"
    folder.mkdir()
    return folder


def build(data, pictures, items=("a", "b")):
    return build_image_store(data, picture_files(pictures), items)


def test_the_encoded_bytes_are_kept_verbatim_of_needed_items_only(data, pictures):
    assert build(data, pictures) == (2, len(png("red")) + len(png("blue")), True)
    assert image_digests(data) == {"a": digest_of(png("red")), "b": digest_of(png("blue"))}
    with RecordFile(data / "images.lmdb") as store, store.view() as view:
        assert bytes(view.get("a")) == png("red")
    with RecordFile(data / "images.lmdb") as store:
        (image,) = read_images(store, ["b"])
        assert np.asarray(image).tolist() == [[[0, 0, 255]] * 4] * 3
        with pytest.raises(FeatureStoreError, match="holds no picture of item 'unused'"):
            read_images(store, ["unused"])


def test_nothing_is_written_when_nothing_changed_and_a_changed_picture_is(data, pictures):
    build(data, pictures)
    before = (data / "images.lmdb").stat().st_mtime_ns
    assert not build(data, pictures).built
    assert (data / "images.lmdb").stat().st_mtime_ns == before
    (pictures / "a.png").write_bytes(png("black"))
    assert build(data, pictures).built
    assert image_digests(data)["a"] == digest_of(png("black"))


def test_every_bad_picture_is_listed_and_no_store_appears(data, pictures):
    (pictures / "a.png").write_bytes(png("red", (99, 99))[:150])
    (pictures / "b.jpg").write_bytes(png("red"))
    (pictures / "d.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded.*4 of 4 items .*bad_images\.tsv") as caught:
        build(data, pictures, ("a", "b", "c", "d"))
    assert caught.value.exit_code == 3
    rows = [line.split("\t") for line in (data / "bad_images.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["a", "b", "c", "d"]
    assert [row[2] for row in rows][1:3] == ["has 2 pictures", "has no picture"]
    assert rows[3][2].startswith("is no JPEG, PNG")
    assert [path.name for path in data.iterdir()] == ["bad_images.tsv"]


def test_the_list_of_bad_pictures_goes_when_they_are_repaired(data, pictures):
    with pytest.raises(DataError, match="item 'c' has no picture; listed in"):
        build(data, pictures, ("a", "c"))
    (pictures / "c.png").write_bytes(png("white"))
    build(data, pictures, ("a", "c"))
    assert [path.name for path in data.iterdir()] == ["images.lmdb"]


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="too many pixels"):
        decode(png("red", (11, 11)))


def test_an_unreadable_store_is_named_with_what_to_do(data, pictures):
    with pytest.raises(MissingDataError, match=r"images\.lmdb: does not exist; run: .*--dataset arts"):
        image_digests(data)
    (data / "images.lmdb").touch()
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: is empty; delete it and run: .*arts"):
        build(data, pictures)
    (data / "images.lmdb").write_bytes(b"junk" * 4096)
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: is not a readable LMDB.*delete it and run: .*arts"):
        build(data, pictures)
    (data / "images.lmdb").unlink()
    with RecordFile(data / "images.lmdb", write=True) as store:
        store.write({}, {"format": "other"})
    with pytest.raises(FeatureStoreError, match="has format 'other'"):
        image_digests(data)


def test_a_changed_picture_changes_the_digest_of_the_items_that_need_it_only(tmp_path, pictures):
    home, catalogue, rows = Home(tmp_path), Catalogue(["a", "unused", "b"], ["A", "U", "B"]), np.array([0, 2])
    image, text = ImageEncoderConfig(), TextEncoderConfig()
    with pytest.raises(MissingDataError, match=r"images\.lmdb: does not exist; run: .*--dataset arts --source DIR"):
        items_digest(home, "arts", image, catalogue, rows)
    home.dataset("arts").mkdir(parents=True)
    build(home.dataset("arts"), pictures, ("a", "b", "unused"))
    pictured, titled = (items_digest(home, "arts", encoder, catalogue, rows) for encoder in (image, text))
    assert pictured == hashlib.sha256(digest_of(png("red")) + digest_of(png("blue"))).hexdigest()[:16]
    assert titled == hashlib.sha256(digest_of(b"A") + digest_of(b"B")).hexdigest()[:16]

    (pictures / "unused.png").write_bytes(png("white"))
    build(home.dataset("arts"), pictures, ("a", "b", "unused"))
    other_title = catalogue._replace(titles=["A", "Other", "B"])
    assert items_digest(home, "arts", image, other_title, rows) == pictured
    assert items_digest(home, "arts", text, other_title, rows) == titled

    (pictures / "b.png").write_bytes(png("black"))
    build(home.dataset("arts"), pictures, ("a", "b", "unused"))
    assert items_digest(home, "arts", image, catalogue, rows) != pictured
    assert items_digest(home, "arts", text, catalogue._replace(titles=["A", "U", "New"]), rows) != titled
    with pytest.raises(FeatureStoreError, match=r"images\.lmdb: holds no picture of item 'c'; run: "):
        items_digest(home, "arts", image, Catalogue(["c"], ["C"]), np.array([0]))
