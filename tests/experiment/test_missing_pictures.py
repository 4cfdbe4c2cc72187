"""Items without a whole picture, from the source to the tables that a study reads."""

import json
import os
import shutil

import numpy as np
import pytest
from corpora import make_corpus, write_amazon, write_amazon_2018
from picture_server import answer, serving

from odmt.config import PrepareConfig
from odmt.data.imported import read_import
from odmt.data.interactions import read_catalogue, read_interactions
from odmt.errors import ConfigError, DataError, MissingDataError, ServiceError
from odmt.experiment.images_stage import own_tables
from odmt.experiment.prepare import prepare
from odmt.experiment.prepare_plan import PreparePlan
from odmt.features.images import BLANK_DIGEST, image_digests
from odmt.home import Home

GONE = ("i0003", "i0011")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus") / "source")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def plan(source, policy="fail", stages=("import", "images"), download=False, **settings):
    wanted = PrepareConfig(missing_images=policy, **settings)
    return PreparePlan(dataset="arts", source=source, settings=wanted, stages=stages, download=download)


def without(source):
    for item in GONE:
        (source / "images" / f"{item}.png").unlink()
    return source


def sequences(folder):
    catalogue = read_catalogue(folder)
    interactions = read_interactions(folder, catalogue)
    bounds = zip(interactions.users, interactions.offsets, interactions.offsets[1:], strict=False)
    return {user: [catalogue.item_ids[row] for row in interactions.items[a:b]] for user, a, b in bounds}


def test_dropped_items_leave_the_catalogue_and_every_sequence(corpus, home, tmp_path):
    report = prepare(home, plan(without(write_amazon(tmp_path / "s", corpus)), "drop"))[1]
    folder = home.dataset("arts")
    expected = {user: [item for item in items if item not in GONE] for user, items in corpus.users.items()}
    assert sequences(folder) == {user: items for user, items in expected.items() if items}
    assert read_catalogue(folder).item_ids == [item for item in corpus.titles if item not in GONE]
    gone = sum(item in GONE for items in corpus.users.values() for item in items)
    assert report.notes == (
        "2 items dropped, without a whole picture (bad_images.tsv)", f"{gone} interactions and 0 users with them"
    )  # fmt: skip
    assert len((folder / "bad_images.tsv").read_text().splitlines()) == 2


def test_a_blank_picture_keeps_every_sequence(corpus, home, tmp_path):
    report = prepare(home, plan(without(write_amazon(tmp_path / "s", corpus)), "blank"))[1]
    assert sequences(home.dataset("arts")) == corpus.users
    digests = image_digests(home.dataset("arts"))
    assert {item for item, digest in digests.items() if digest == BLANK_DIGEST} == set(GONE)
    assert report.notes == ("2 items have a grey picture in place of their own (bad_images.tsv)",)


def test_by_default_a_missing_picture_stops_and_the_policies_are_named(corpus, home, tmp_path):
    with pytest.raises(DataError, match=r"2 of 30 items .*prepare\.missing_images=drop.*=blank") as caught:
        prepare(home, plan(without(write_amazon(tmp_path / "s", corpus))))
    assert caught.value.exit_code == 3
    with pytest.raises(MissingDataError, match="'arts' is not prepared"):
        read_catalogue(home.dataset("arts"))


def test_the_policy_can_be_changed_later_without_reading_a_picture_again(corpus, home, tmp_path):
    source = without(write_amazon(tmp_path / "s", corpus))
    prepare(home, plan(source, "drop"))
    shutil.rmtree(source)
    report = prepare(home, plan(None, "blank"))[1]
    assert report.summary.startswith("28 pictures, 0 read now")
    assert sequences(home.dataset("arts")) == corpus.users


def test_a_picture_that_comes_later_brings_its_item_back(corpus, home, tmp_path):
    source = without(write_amazon(tmp_path / "s", corpus))
    prepare(home, plan(source, "drop"))
    for item in GONE:
        (source / "images" / f"{item}.png").write_bytes(corpus.pictures[item])
    assert prepare(home, plan(source, "drop"))[1].summary.startswith("30 pictures, 2 read now")
    assert sequences(home.dataset("arts")) == corpus.users
    assert not (home.dataset("arts") / "bad_images.tsv").exists()


def test_the_core_holds_again_once_items_are_dropped(corpus, home, tmp_path):
    source = write_amazon_2018(tmp_path / "s", corpus)
    common = sorted(corpus.titles, key=lambda item: -sum(item in items for items in corpus.users.values()))[:12]
    for item in common:
        (source / "images" / f"{item}.png").unlink()
    prepare(home, plan(source, "drop"))
    found = sequences(home.dataset("arts"))
    items = [item for sequence in found.values() for item in sequence]
    assert 0 < len(found) < len(corpus.users)
    assert min(len(sequence) for sequence in found.values()) >= 5
    assert min(items.count(item) for item in items) >= 5
    assert set(read_catalogue(home.dataset("arts")).item_ids) == set(items)
    imported = read_import(home.dataset("arts"))
    assert imported.record.core == [5, 5]
    with pytest.raises(DataError, match="no interaction is left once the 30 items"):
        own_tables(imported, dict.fromkeys(corpus.titles, "gone"))


@pytest.fixture
def shop(monkeypatch, corpus):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serving() as server:
        for item, content in corpus.pictures.items():
            if item not in GONE:
                server.serve(f"{item}.png", answer(content))
        yield server


def test_pictures_are_fetched_where_the_source_has_addresses_only_if_that_is_wanted(corpus, home, tmp_path, shop):
    source = write_amazon_2018(tmp_path / "s", corpus, address=shop.root)
    with pytest.raises(DataError, match=r"30 of 30 items .*the source names addresses: --download-images fetches them"):
        prepare(home, plan(source))
    assert shop.asked == []
    notes = prepare(home, plan(source, "drop", download=True))[1].notes
    assert notes[0] == "28 pictures fetched, 2 of 30 failed"
    assert set(image_digests(home.dataset("arts"))) == set(corpus.titles) - set(GONE)
    reasons = [line.split("\t")[2] for line in (home.dataset("arts") / "bad_images.tsv").read_text().splitlines()]
    assert all("404" in reason for reason in reasons)
    asked = len(shop.asked)
    assert not prepare(home, plan(source, "drop", download=True))[1].changed
    assert len(shop.asked) == asked  # neither what is there nor what failed for good is asked for again


def test_why_a_picture_could_not_be_fetched_is_remembered(corpus, home, tmp_path, shop):
    for item in GONE:
        shop.serve(f"{item}.png", answer(b"", 503))
    source = write_amazon_2018(tmp_path / "s", corpus, address=shop.root)
    notes = prepare(home, plan(source, "drop", download=True, download_retries=0))[1].notes
    assert notes[0] == (
        "28 pictures fetched, 2 of 30 failed, 2 of them for a reason that may pass: the same command asks again"
    )
    listed = (home.dataset("arts") / "bad_images.tsv").read_text()
    assert listed.count("503") == 2
    assert not prepare(home, plan(source, "drop"))[1].changed
    assert (home.dataset("arts") / "bad_images.tsv").read_text() == listed


def test_pictures_are_fetched_also_when_the_source_is_gone(corpus, home, tmp_path, shop):
    source = write_amazon_2018(tmp_path / "s", corpus, address=shop.root)
    (source / "images").mkdir()
    for item in ("i0001", "i0002"):
        (source / "images" / f"{item}.png").write_bytes(corpus.pictures[item])
    prepare(home, plan(source, "blank"))
    shutil.rmtree(source)
    report = prepare(home, plan(None, "blank", download=True))[1]
    assert report.notes[0] == "26 pictures fetched, 2 of 28 failed"
    assert report.summary.startswith("28 pictures, 26 read now")
    assert not prepare(home, plan(None, "blank"))[1].changed
    assert prepare(home, plan(None, "blank"))[1].summary.startswith("28 pictures, 0 read now")


def test_a_first_fetch_needs_the_source_no_longer(corpus, home, tmp_path, shop):
    source = write_amazon_2018(tmp_path / "s", corpus, address=shop.root)
    prepare(home, plan(source, stages=("import",)))
    shutil.rmtree(source)
    with pytest.raises(
        MissingDataError, match=r"images\.lmdb: does not exist, .*, or fetch them with --download-images"
    ):
        prepare(home, plan(None))
    assert prepare(home, plan(None, "drop", download=True))[1].summary.startswith("28 pictures, 28 read now")
    (home.dataset("arts") / "images.lmdb").unlink()
    assert prepare(home, plan(None, "drop", download=True))[1].summary.startswith("28 pictures, 28 read now")


def test_a_fetched_picture_that_broke_is_fetched_again_once_it_is_away(corpus, home, tmp_path, shop):
    source = write_amazon_2018(tmp_path / "s", corpus, address=shop.root)
    prepare(home, plan(source, "drop", download=True))
    shutil.rmtree(source)
    file = next((home.dataset("arts") / "downloads").glob("*/i0001.png"))
    file.write_bytes(b"broken")
    assert prepare(home, plan(None, "drop"))[1].summary.startswith("27 pictures")
    file.unlink()
    assert prepare(home, plan(None, "drop", download=True))[1].summary.startswith("28 pictures, 1 read now")


def test_why_a_picture_is_broken_is_still_told_when_the_source_is_gone(corpus, home, tmp_path, shop):
    source = write_amazon_2018(tmp_path / "s", corpus, address=shop.root)
    (source / "images").mkdir()
    for item, content in corpus.pictures.items():
        (source / "images" / f"{item}.png").write_bytes(content if item != "i0001" else b"broken")
    assert "is no JPEG" in _reason(home, source)
    shutil.rmtree(source)
    assert not prepare(home, plan(None, "drop"))[1].changed
    assert prepare(home, plan(None, "drop", download=True))[1].notes[0] == "1 pictures fetched, 0 of 1 failed"


def test_pictures_that_went_with_their_folder_are_kept_until_that_is_taken(corpus, home, tmp_path):
    source = write_amazon(tmp_path / "s", corpus)
    prepare(home, plan(source))
    (source / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="30 of 30 items are like that"):
        prepare(home, plan(source))
    assert len(image_digests(home.dataset("arts"))) == 30
    (tmp_path / "elsewhere").rename(source / "images")
    assert not prepare(home, plan(source))[1].changed


def test_a_reason_that_no_longer_holds_is_not_told(corpus, home, tmp_path, shop):
    source = write_amazon_2018(tmp_path / "s", corpus, address=shop.root)
    (source / "images").mkdir()
    for item, content in corpus.pictures.items():
        (source / "images" / f"{item}.png").write_bytes(content)
    (source / "images" / "i0001.jpg").write_bytes(corpus.pictures["i0001"])
    assert "has 2 pictures" in _reason(home, source)
    for name in ("i0001.jpg", "i0001.png"):
        (source / "images" / name).unlink()
    assert "i0001\t\thas no picture" in _reason(home, source)


def _reason(home, source):
    prepare(home, plan(source, "drop"))
    return (home.dataset("arts") / "bad_images.tsv").read_text()


def test_a_source_whose_name_is_no_text_is_prepared(corpus, home, tmp_path):
    odd = tmp_path / os.fsdecode(b"s\xff")
    source = write_amazon(odd, corpus, records=True)
    assert prepare(home, plan(source))[1].summary.startswith("30 pictures")
    source = write_amazon(tmp_path / os.fsdecode(b"t\xff"), corpus)
    (source / "images" / "i0001.png").write_bytes(b"broken")
    prepare(Home(tmp_path / "other"), plan(source, "drop"))
    assert "\\udcff" in (tmp_path / "other" / "data" / "arts" / "bad_images.tsv").read_text()


def test_fetching_is_refused_where_the_source_names_no_addresses(corpus, home, tmp_path):
    with pytest.raises(ConfigError, match="--download-images: the source names no addresses of pictures; leave the fl"):
        prepare(home, plan(write_amazon(tmp_path / "s", corpus), download=True))


def test_addresses_are_spoken_of_only_where_pictures_are_missing(corpus, home, tmp_path, shop, monkeypatch):
    def dying(*arguments, **options):
        raise DataError("a process died")

    monkeypatch.setattr("odmt.features.image_import._store_pictures", dying)
    source = write_amazon_2018(tmp_path / "s", corpus, address=shop.root)
    with pytest.raises(DataError) as caught:
        prepare(home, plan(source, "drop"))
    assert str(caught.value) == "a process died"


def test_a_server_that_is_gone_stops_with_what_is_there_kept(corpus, home, tmp_path):
    source = write_amazon_2018(tmp_path / "s", corpus, address="http://127.0.0.1:9")
    settings = {"download_retries": 0, "download_timeout_seconds": 1.0}
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1") as caught:
        prepare(home, plan(source, "drop", download=True, **settings))
    assert caught.value.exit_code == 5
    assert json.loads((home.dataset("arts") / "imported" / "import.json").read_text())["form"] == "amazon-2018"


def test_a_drop_changes_the_data_sets_digest_and_a_blank_does_not(corpus, tmp_path):
    from odmt.data.interactions import dataset_digest

    source = without(write_amazon(tmp_path / "s", corpus))
    found = {}
    for policy in ("drop", "blank"):
        home = Home(tmp_path / policy)
        prepare(home, plan(source, policy))
        found[policy] = dataset_digest(home.dataset("arts"))
    prepare(Home(tmp_path / "whole"), plan(write_amazon(tmp_path / "whole_source", corpus)))
    assert found["blank"] == dataset_digest(Home(tmp_path / "whole").dataset("arts")) != found["drop"]
    assert np.unique(list(found.values())).size == 2
