"""What the flags of prepare.py mean, and which are refused."""

import shlex

import pytest


@pytest.mark.parametrize("dataset", ["../x", "", "a/b", "."])
@pytest.mark.parametrize("space", [[], ["--space", "demo"]])
def test_the_command_refuses_a_data_set_that_is_no_folder_name(dataset, space, launch, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path / "home"))
    assert launch("prepare")(["--dataset", dataset, *space]) == 2
    assert capsys.readouterr().err == f"error: --dataset: dataset: {dataset!r} is not a folder name\n"
    assert not (tmp_path / "home").exists()


def encoders_asked_for(launch, monkeypatch, *arguments):
    """Return the plan that the command makes of some arguments."""
    found = []
    monkeypatch.setattr("odmt.experiment.prepare.prepare", lambda home, plan, tell: found.append(plan) or [])
    assert launch("prepare")(list(arguments)) == 0
    return found[0]


def test_a_revision_is_a_setting_of_its_encoder_and_the_next_command_names_it(launch, monkeypatch, capsys):
    revisions = ["--revision", "text=abc", "--revision", "image=1e5"]
    asked = encoders_asked_for(launch, monkeypatch, "--dataset", "arts", *revisions)
    assert [encoder.revision for encoder in asked.encoders] == ["abc", "1e5"]
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[-4:] == ["--set", "features.text.revision='abc'", "--set", "features.image.revision='1e5'"]


def test_settings_of_prepare_come_from_the_space_and_from_the_command(launch, monkeypatch):
    asked = encoders_asked_for(launch, monkeypatch, "--space", "hm", "--set", "prepare.missing_images=blank")
    assert (asked.dataset, asked.settings.max_users, asked.settings.missing_images) == ("hm", 50_000, "blank")
    without = encoders_asked_for(
        launch, monkeypatch, "--dataset", "mine", "--set", "prepare.batch_size=3", "--set", "features.text.layer=6"
    )
    assert (without.settings.batch_size, without.text_encoders[0].layer) == (3, 6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--revision", "abc"], "--revision: 'abc' is neither text=REV nor image=REV"),
        (["--set", "train.max_epochs=3"], "--set: train.max_epochs: prepare.py reads prepare.* and features.* only"),
        (["--set", "prepare.missing_image=drop"], "unknown key; did you mean missing_images?"),
        (["--set", "prepare.missing_images=dorp"], "expected one of fail, drop, blank, got 'dorp'"),
        (["--set", "prepare.batch_size=0"], "batch_size: 0 is below 1"),
        (["--dataset", "mine", "--set", "prepare.workers=-1"], "workers: -1 is below 0"),
        (["--dataset", "mine", "--set", "features.image.mask_ratio=1"], "mask_ratio: 1.0 is not in [0, 1)"),
        (["--stage", "import", "--preview"], "--preview: belongs to the stage verify, and --stage import was given"),
        (["--stage", "verify", "--download-images"], "--download-images: belongs to the stage images"),
        (["--stage", "images", "--source", "x"], "--source: belongs to the stage import, and --stage images was given"),
        (["--stage", "images", "--revision", "text=x"], "--revision: belongs to the stage features or verify, and"),
        (["--stage", "verify", "--where", "attach"], "--where: belongs to the stage features, and --stage verify was"),
        (["--dry-run", "--preview"], "--preview: a dry run draws nothing"),
        (["--dry-run", "--where", "attach"], "--where: a dry run reckons with this machine only"),
        (["--where", "attach"], "attach needs RAY_ADDRESS"),
        (["--where", "moon"], "invalid choice: 'moon'"),
    ],
)
def test_flags_that_mean_nothing_end_with_exit_code_2(arguments, sentence, launch, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert launch("prepare")(["--dataset", "demo", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("script", ["train", "tune"])
def test_other_commands_refuse_settings_that_only_prepare_reads(script, launch, capsys):
    assert launch(script)(["--space", "arts", "--set", "prepare.missing_images=drop"]) == 2
    assert "--set prepare.missing_images: only prepare.py reads it" in capsys.readouterr().err
