"""The dry run says what would be done, does nothing, and needs no encoder."""

import subprocess
import sys

import pytest
from conftest import CHECKOUT
from corpora import make_corpus, write_amazon, write_amazon_2018, write_hm_kaggle

from odmt.config import ImageEncoderConfig, PrepareConfig, TextEncoderConfig
from odmt.experiment.dry_run import forecast_stages
from odmt.experiment.prepare import prepare
from odmt.experiment.prepare_plan import PreparePlan
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT
from odmt.features.store import feature_store_path
from odmt.home import Home

TINY = {"tiny_encoders": True, "text_encoders": (TINY_TEXT,), "image_encoders": (TINY_IMAGE,)}
HUB = {"text_encoders": (TextEncoderConfig(),), "image_encoders": (ImageEncoderConfig(),)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus") / "source")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def forecast(home, source, encoders=TINY, download=False, **settings):
    plan = PreparePlan(dataset="arts", source=source, settings=PrepareConfig(**settings), download=download, **encoders)
    return plan, {stage: "\n".join(sentences) for stage, sentences in forecast_stages(home, plan)}


def test_before_the_import_the_number_of_items_is_estimated(corpus, home, tmp_path):
    _, said = forecast(home, write_amazon(tmp_path / "s", corpus), HUB)
    assert said["import"].startswith("would import the authors' release, Amazon dialect in ")
    assert "Arts_Crafts_and_Sewing_text.tsv: 0.0 MB, about 30 lines" in said["import"]
    assert "would read pictures of at most about 30 items" in said["images"]
    # 30 items x 30 tokens x 768 x 2 bytes = 1.4 MB; 50 tokens of a picture: 2.3 MB
    assert (
        "text features of bert-base-uncased of at most about 30 items: up to 1.4 MB (width 768 assumed"
        in said["features"]
    )
    assert "clip-vit-base-patch32 of at most about 30 items: up to 2.3 MB" in said["features"]
    assert not home.root.exists()


def test_after_everything_all_is_up_to_date(corpus, home, tmp_path):
    source = write_amazon(tmp_path / "s", corpus)
    plan, _ = forecast(home, source)
    prepare(home, plan)
    before = sorted((path, path.stat().st_mtime_ns) for path in home.root.rglob("*"))
    _, said = forecast(home, source)
    assert said["import"].startswith("up to date: the authors' release, Amazon dialect")
    assert said["images"] == "no picture to read: 30 are there"
    assert said["features"].count("up to date") == 2
    assert "would read back" in said["verify"]
    assert sorted((path, path.stat().st_mtime_ns) for path in home.root.rglob("*")) == before


def test_a_store_that_the_run_would_refuse_is_told(corpus, home, tmp_path):
    source = write_amazon(tmp_path / "s", corpus)
    plan, _ = forecast(home, source)
    prepare(home, plan)
    feature_store_path(home, "arts", TINY_TEXT).write_bytes(b"junk" * 5000)
    said = forecast(home, source)[1]["features"].splitlines()
    assert said[0].startswith("cannot extract text features of ./encoders/text: ")
    assert "is not a readable LMDB file" in said[0]
    assert said[1].startswith("up to date: image features")


def test_only_the_two_tiny_encoders_are_made(corpus, home, tmp_path):
    other = TINY | {"text_encoders": (TextEncoderConfig(model="./encoders/bert"),)}
    said = forecast(home, write_amazon(tmp_path / "s", corpus), other)[1]["features"].splitlines()
    assert said[0].startswith("cannot extract text features of ./encoders/bert: ")
    assert said[1].startswith("would make a tiny encoder and extract image features")


def test_a_grown_source_counts_only_what_is_new(corpus, home, tmp_path):
    few = corpus._replace(users={user: items[:5] for user, items in list(corpus.users.items())[:2]})
    source = write_amazon(tmp_path / "s", few)
    plan, _ = forecast(home, source)
    prepare(home, plan)
    write_amazon(source, corpus)
    prepare(home, PreparePlan(dataset="arts", source=source, stages=("import", "images")))
    met = len({item for items in few.users.values() for item in items})
    _, said = forecast(home, source)
    assert f"would extract text features of ./encoders/text of {30 - met} of 30 items" in said["features"]
    assert "as fast as before" in said["features"]


def test_missing_pictures_are_counted_with_what_becomes_of_them(corpus, home, tmp_path):
    source = write_amazon(tmp_path / "s", corpus)
    (source / "images" / "i0003.png").unlink()
    prepare(home, PreparePlan(dataset="arts", source=source, stages=("import",)))
    for policy, words in (("fail", "would stop"), ("drop", "would drop them"), ("blank", "a grey picture")):
        _, said = forecast(home, source, missing_images=policy)
        assert "would read 29 of 30 pictures" in said["images"]
        assert "1 items without a picture, such as 'i0003', which has no picture: " in said["images"]
        assert words in said["images"]


def test_addresses_are_counted_and_the_flag_is_named(corpus, home, tmp_path):
    source = write_amazon_2018(tmp_path / "s", corpus, address="http://127.0.0.1:9")
    _, said = forecast(home, source, download=True)
    assert "would fetch at most about" in said["images"]
    assert "of these users with 5 and items with 5 interactions or more" in said["import"]
    prepare(home, PreparePlan(dataset="arts", source=source, stages=("import",)))
    assert "30 more have an address: --download-images fetches them" in forecast(home, source)[1]["images"]
    assert (
        "would fetch up to 30 pictures over 8 connections, about 4 s"
        in forecast(home, source, download=True)[1]["images"]
    )


def test_a_sample_of_users_is_told(corpus, home, tmp_path):
    _, said = forecast(home, write_hm_kaggle(tmp_path / "s", corpus), max_users=20)
    assert "items with 1 interactions or more, 20 users at most" in said["import"]


def test_the_dry_run_imports_neither_torch_nor_transformers(corpus, tmp_path):
    source = write_amazon(tmp_path / "s", corpus)
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['prepare.py', '--dataset', 'arts', '--source', {str(source)!r}, '--dry-run']\n"
        "try: runpy.run_path('launch/prepare.py', run_name='__main__')\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "print('HEAVY', [name for name in ('torch', 'transformers', 'ray', 'mlflow') if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("HEAVY []\n")
    assert "nothing was done: --dry-run" in ended.stdout
