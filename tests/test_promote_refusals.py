"""What promote.py refuses before it reads the sealed test split."""

import sys
from types import SimpleNamespace

import pytest
from small_home import DATASET, study_of, trained_trial, write_small_dataset

from odmt.experiment.sealed_test import LOG_NAME
from odmt.home import Home


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ODMT_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path)
    write_small_dataset(home, monkeypatch)
    found = study_of(trained_trial(home))
    monkeypatch.setitem(sys.modules, "odmt.tuning.study", SimpleNamespace(read_study=lambda home, name: found))
    return found


def refused(study, launch, capsys):
    assert launch("promote")(["small"]) == 3
    assert not (Home.from_environment().dataset(DATASET) / LOG_NAME).exists()
    return capsys.readouterr().err


def test_a_study_whose_features_were_written_to_is_not_promoted_from(study, launch, capsys):
    study.tainted = "found by trial t0001"
    assert "study 'small' cannot be promoted from: found by trial t0001" in refused(study, launch, capsys)


def test_a_study_on_other_data_than_the_prepared_is_not_promoted_from(study, launch, capsys):
    study.run_digests = ("0123456789abcdef",)
    assert "was prepared anew since study 'small': its digest was 0123456789abcdef" in refused(study, launch, capsys)
