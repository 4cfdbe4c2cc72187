import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odmt.config import PrepareConfig, TextEncoderConfig
from odmt.data.demo import generate
from odmt.data.interactions import read_catalogue, read_interactions
from odmt.data.ownership import owned
from odmt.errors import DataError, FeatureStoreError, MissingDataError
from odmt.experiment.prepare import prepare
from odmt.experiment.prepare_plan import PreparePlan, with_stages
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT
from odmt.features.shards import load_features
from odmt.features.store import feature_store_path
from odmt.home import Home


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A small generated source and the home that it was prepared into."""
    folder = tmp_path_factory.mktemp("pristine")
    generate(folder / "source", num_users=40, num_items=30)
    prepare(Home(folder / "home"), plan(folder))
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy of both that a test may damage."""
    shutil.copytree(pristine, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def home(folder):
    return Home(folder / "home")


def plan(folder, **changes):
    settings = {
        "dataset": "arts",
        "source": folder / "source",
        "tiny_encoders": True,
        "text_encoders": (TINY_TEXT,),
        "image_encoders": (TINY_IMAGE,),
    }
    return PreparePlan(**settings | changes)


def changed(reports):
    return {report.stage: report.changed for report in reports}


def visible(home):
    return sorted(path.name for path in home.dataset("arts").iterdir() if not path.name.endswith("-lock"))


WHOLE = ["catalogue.parquet", "encoders", "images.lmdb", "imported", "interactions.parquet", "verified.json"]


def test_a_second_run_finds_everything_up_to_date(folder, home):
    prepare(home, plan(folder))  # the source has moved
    before = {path: path.stat().st_mtime_ns for path in home.root.rglob("*.*") if path.is_file()}
    reports = prepare(home, plan(folder))
    assert changed(reports) == {"import": False, "images": False, "features": False, "verify": False}
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert reports[0].summary.startswith("the authors' release, Amazon dialect: 40 users, 30 items, ")
    assert visible(home) == WHOLE


def test_the_source_is_remembered_and_may_go_once_all_is_imported(folder, home):
    prepare(home, plan(folder, source=None))
    shutil.rmtree(folder / "source")
    assert not any(changed(prepare(home, plan(folder, source=None))).values())


def test_a_changed_source_updates_only_what_changed(folder, home):
    text = folder / "source" / "demo_text.tsv"
    lines = text.read_text().splitlines(keepends=True)
    text.write_text("i0001\tSomething else\n" + "".join(lines[1:]))
    reports = prepare(home, plan(folder))
    assert changed(reports) == {"import": True, "images": True, "features": True, "verify": False}
    assert reports[1].summary.startswith("30 pictures, 0 read now")
    assert "text ./encoders/text: 1 of 30 extracted" in reports[2].summary
    assert "image ./encoders/image: 0 of 30 extracted" in reports[2].summary


def test_items_that_nobody_met_need_neither_picture_nor_features(folder, home):
    with open(folder / "source" / "demo_text.tsv", "a") as text:
        text.write("unmet\tNobody met this\n")
    prepare(home, plan(folder))
    catalogue = read_catalogue(home.dataset("arts"))
    features = load_features(home, "arts", TINY_TEXT, catalogue)
    np.testing.assert_array_equal(np.flatnonzero(features.lengths == 0), [30])
    assert 30 not in read_interactions(home.dataset("arts"), catalogue).items


@pytest.mark.parametrize(
    ("behaviours", "sentence"),
    [
        ("u1\ti0001\nu2 i0001\n", r"demo_user_behaviours\.tsv:2: has no TAB"),
        ("u1\ti0001 i9999\n", r"demo_user_behaviours\.tsv:1: item 'i9999' of user 'u1' has no line in"),
        ("", r"demo_user_behaviours\.tsv: is empty"),
    ],
)
def test_a_malformed_source_leaves_nothing_behind(folder, behaviours, sentence):
    (folder / "source" / "demo_user_behaviours.tsv").write_text(behaviours)
    with pytest.raises(DataError, match=sentence) as caught:
        prepare(Home(folder / "new"), plan(folder))
    assert caught.value.exit_code == 3
    assert not (folder / "new").exists()


def test_a_malformed_source_leaves_the_former_import_as_it_was(folder, home):
    before = visible(home)
    (folder / "source" / "demo_user_behaviours.tsv").write_text("u1 i0001\n")
    with pytest.raises(DataError, match="has no TAB"):
        prepare(home, plan(folder))
    assert visible(home) == before
    assert not any(changed(prepare(home, plan(folder, stages=("verify",)))).values())


def test_a_table_that_is_cut_off_is_imported_again_from_the_source(folder, home):
    table = home.dataset("arts") / "interactions.parquet"
    whole = table.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:4] + bytes(200) + whole[204:]):
        for place, stage in ((table, "images"), (home.dataset("arts") / "imported" / table.name, "import")):
            place.write_bytes(damaged)
            assert [name for name, done in changed(prepare(home, plan(folder))).items() if done] == [stage]
            assert table.read_bytes() == whole


def test_a_table_of_another_program_is_not_replaced(folder, home):
    table = home.dataset("arts") / "interactions.parquet"
    pq.write_table(pa.table({"mine": [1]}), table)
    with pytest.raises(DataError, match=r"interactions\.parquet: was not written by odmt; delete it"):
        prepare(home, plan(folder))


def test_leftovers_of_a_killed_preparation_go_and_a_running_one_is_respected(folder, home):
    (home.dataset("arts") / ".images-abcdefgh").mkdir()
    with owned(home.dataset("arts")), pytest.raises(DataError, match=rf"\(pid {os.getpid()}\) is preparing"):
        prepare(home, plan(folder))
    prepare(home, plan(folder, stages=("verify",)))
    assert not (home.dataset("arts") / ".images-abcdefgh").exists()


def test_a_broken_picture_stops_before_any_features(folder):
    (folder / "source" / "images" / "i0003.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    home = Home(folder / "new")
    with pytest.raises(DataError, match=r"i0003\.png: .*listed in .*bad_images\.tsv") as caught:
        prepare(home, plan(folder))
    assert caught.value.exit_code == 3
    assert visible(home) == ["bad_images.tsv", "images.lmdb", "imported"]
    assert not home.features("arts").exists()


@pytest.mark.parametrize("which", ["images", "features"])
def test_an_unreadable_store_is_named(folder, home, which):
    path = home.dataset("arts") / "images.lmdb" if which == "images" else feature_store_path(home, "arts", TINY_TEXT)
    path.write_bytes(b"junk" * 5000)
    with pytest.raises(
        FeatureStoreError, match=rf"{path.name}: is not a readable LMDB file.*delete it and run"
    ) as caught:
        prepare(home, plan(folder))
    assert caught.value.exit_code == 3


def test_verification_refuses_features_that_are_not_there(folder, home):
    feature_store_path(home, "arts", TINY_TEXT).unlink()
    with pytest.raises(MissingDataError, match="has no text features"):
        prepare(home, plan(folder, stages=("verify",)))


def test_without_source_and_import_the_command_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"never been imported .*prepare\.py --dataset arts --source DIR"):
        prepare(Home(tmp_path), PreparePlan(dataset="arts"))


def test_an_encoder_folder_that_is_missing_is_named(folder, home):
    encoders = (TextEncoderConfig(model="./encoders/bert-base-uncased"),)
    with pytest.raises(MissingDataError, match=r"put a Hugging Face folder at .*arts/encoders/bert-base-uncased"):
        prepare(home, plan(folder, text_encoders=encoders))


def test_an_encoder_that_cannot_be_had_is_told_before_anything_is_imported(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = Home(folder / "new")
    with pytest.raises(MissingDataError, match="no-such/model could not be fetched"):
        prepare(home, plan(folder, text_encoders=(TextEncoderConfig(model="no-such/model"),)))
    assert not home.root.exists()


def test_tiny_encoders_excuse_the_lack_of_no_other_folder(folder):
    home = Home(folder / "new")
    with pytest.raises(MissingDataError, match=r"put a Hugging Face folder at .*arts/encoders/bert"):
        prepare(home, plan(folder, text_encoders=(TextEncoderConfig(model="./encoders/bert"),)))
    assert not home.root.exists()


def test_a_precision_that_is_asked_for_is_that_of_the_features(folder, home):
    asked = plan(folder, settings=PrepareConfig(precision="bf16"))
    assert prepare(home, asked)[2].summary.count("30 of 30 extracted") == 2
    assert not any(changed(prepare(home, asked)).values())
    assert not any(changed(prepare(home, plan(folder))).values())


def test_features_of_an_import_whose_pictures_were_not_looked_at_are_refused(folder, home):
    behaviours = folder / "source" / "demo_user_behaviours.tsv"
    behaviours.write_text("".join(behaviours.read_text().splitlines(keepends=True)[:20]))
    prepare(home, plan(folder, stages=("import",)))
    with pytest.raises(MissingDataError, match="the images stage has not run to its end since the last import"):
        prepare(home, plan(folder, stages=("features",)))
    prepare(home, plan(folder))
    assert len(read_interactions(home.dataset("arts"), read_catalogue(home.dataset("arts"))).users) == 20


def test_one_stage_can_be_asked_for(folder, home):
    assert with_stages(plan(folder), "verify").verify_always
    assert with_stages(plan(folder), "images").stages == ("images",)
    assert with_stages(plan(folder), None).stages == ("import", "images", "features", "verify")
    assert [report.stage for report in prepare(home, with_stages(plan(folder), "images"))] == ["images"]


def test_the_command_prepares_and_then_is_up_to_date(folder, launch, monkeypatch, capsys):
    monkeypatch.setenv("ODMT_HOME", str(folder / "home"))
    main = launch("prepare")
    assert main(["--dataset", "arts2", "--source", str(folder / "source"), "--tiny-encoders"]) == 0
    assert "prepared: arts2" in capsys.readouterr().out
    assert main(["--dataset", "arts2", "--tiny-encoders"]) == 0
    assert "up to date: arts2" in capsys.readouterr().out


def test_the_command_ends_with_3_and_one_sentence_on_bad_data(folder, launch, monkeypatch, capsys):
    monkeypatch.setenv("ODMT_HOME", str(folder / "home"))
    (folder / "source" / "demo_user_behaviours.tsv").write_text("u1 i0001\n")
    assert launch("prepare")(["--dataset", "new", "--source", str(folder / "source"), "--tiny-encoders"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert launch("prepare")(["--dataset", "nowhere", "--source", str(folder / "nowhere")]) == 3
    assert capsys.readouterr().err.startswith(
        f"error: {folder / 'nowhere'}: is not a folder; expected one with\n  amaz"
    )
    assert launch("prepare")(["--dataset", "nowhere"]) == 3
    assert "--dataset nowhere --source DIR" in capsys.readouterr().err


def test_the_command_to_go_on_with_names_the_data_set_if_the_space_has_another(folder, launch, monkeypatch, capsys):
    monkeypatch.setenv("ODMT_HOME", str(folder / "home"))
    source = str(folder / "source")
    assert launch("prepare")(["--space", "demo", "--dataset", "arts3", "--source", source, "--tiny-encoders"]) == 0
    assert "next: python launch/tune.py --space demo --set data.dataset=arts3\n" in capsys.readouterr().out
