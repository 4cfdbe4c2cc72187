"""promote.py and recommend.py on one small trained trial; the study itself is a stand-in for read_study's answer."""

import json
import sys
from types import SimpleNamespace

import pytest
from small_home import DATASET, study_of, trained_trial, write_small_dataset

from odmt.errors import StudyError
from odmt.experiment import sealed_test
from odmt.tracking.connection import connect


@pytest.fixture
def trial(home, monkeypatch):
    monkeypatch.setenv("ODMT_HOME", str(home.root))
    write_small_dataset(home, monkeypatch)
    return trained_trial(home)


@pytest.fixture
def studies(monkeypatch):
    known = {}

    def read_study(home, name):
        if name not in known:
            raise StudyError(f"no study {name!r}; there are: {', '.join(known)}")
        return known[name]

    monkeypatch.setitem(sys.modules, "odmt.tuning.study", SimpleNamespace(read_study=read_study))
    return known


def child_run(home):
    client = connect(home)
    experiment = client.get_experiment_by_name(DATASET)
    [run] = [run for run in client.search_runs([experiment.experiment_id]) if "odmt.trial" in run.data.tags]
    return run


def parent_run(home):
    client = connect(home)
    experiment = client.get_experiment_by_name(DATASET)
    [run] = [run for run in client.search_runs([experiment.experiment_id]) if "odmt.trial" not in run.data.tags]
    return run


def test_from_a_study_to_recommended_items(home, trial, studies, launch, capsys, monkeypatch):
    studies["small"] = study_of(trial)
    assert launch("promote")(["small"]) == 0
    out = capsys.readouterr().out
    for row in ("fused head", "id head", "text head", "image head", "floor: popularity", "floor: transitions"):
        assert row in out
    assert "the test split was read now; reads of this data set so far: 1" in out
    assert "odmt-small version 1 is champion" in out
    assert "next: python launch/recommend.py --model small --history item00,item01" in out
    parent, child = parent_run(home), child_run(home)
    assert (parent.info.status, child.info.status, child.data.tags["odmt.outcome"]) == (
        "FINISHED", "FINISHED", trial.state
    )  # fmt: skip
    metrics = child.data.metrics
    assert metrics["test/hr_at_20"] == 1.0
    assert metrics["test/floor/transitions/ndcg_at_10"] == 1.0
    assert metrics["best/ndcg_at_10"] == pytest.approx(trial.best_value)

    monkeypatch.setattr(sealed_test, "evaluate_model", lambda *_: pytest.fail("the sealed test is read again"))
    assert launch("promote")(["small"]) == 0
    out = capsys.readouterr().out
    assert "not read again" in out
    assert "odmt-small version 1 (registered before) is champion" in out

    assert launch("recommend")(["--model", "small", "--history", "item03,item04", "--top-k", "3", "--json"]) == 0
    places = json.loads(capsys.readouterr().out)
    assert [place["rank"] for place in places] == [1, 2, 3]
    assert not {"item03", "item04"} & {place["item_id"] for place in places}
    assert places[0]["title"] == f"Title {int(places[0]['item_id'][4:])}"
    assert launch("recommend")(["--model", "odmt-small", "--history", "item03"]) == 0
    assert "rank" in capsys.readouterr().out
    assert launch("recommend")(["--model", "models:/odmt-small/1", "--history", "item99"]) == 3
    assert "unknown item 'item99'; known are for instance item" in capsys.readouterr().err


def test_what_cannot_be_promoted_is_refused_in_one_sentence(home, trial, studies, launch, capsys, tmp_path):
    promote = launch("promote")
    studies["small"] = study_of(trial)
    failed = SimpleNamespace(**vars(trial) | {"state": "failed", "number": 1, "trial_id": "t-bad"})
    gone = SimpleNamespace(**vars(trial) | {"best_checkpoint": tmp_path / "gone"})
    studies["unfinished"] = study_of(failed, name="unfinished")
    studies["gone"] = study_of(gone, name="gone")
    for argv, code, sentence in (
        (["nowhere"], 2, "no study 'nowhere'; there are: small"),
        (["unfinished"], 2, "has no finished trial among 1; python launch/tune.py"),
        (["unfinished", "--trial", "1"], 2, "trial 1 is failed; promote a completed or stopped one"),
        (["small", "--trial", "9"], 2, "has no trial '9'; finished are: 0"),
        (["gone"], 3, "has no checkpoint at"),
    ):
        assert promote(argv) == code
        assert sentence in capsys.readouterr().err
    assert not (home.dataset(DATASET) / sealed_test.LOG_NAME).exists()


def test_without_mlflow_the_sealed_test_stays_sealed(home, trial, studies, launch, capsys, monkeypatch):
    studies["small"] = study_of(trial)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert launch("promote")(["small"]) == 5
    assert "MLflow at http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    assert not (home.dataset(DATASET) / sealed_test.LOG_NAME).exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--model", "demo", "--history", "a,,b"], "holds an empty item id"),
        (["--model", "demo", "--history", "a", "--top-k", "0"], "--top-k: 0 is below 1"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_loaded(launch, capsys, argv, sentence):
    assert launch("recommend")(argv) == 2
    assert sentence in capsys.readouterr().err


def test_a_model_that_nobody_promoted_is_named(home, launch, capsys, monkeypatch):
    monkeypatch.setenv("ODMT_HOME", str(home.root))
    assert launch("recommend")(["--model", "arts", "--history", "a"]) == 3
    assert "no registered model 'arts'" in capsys.readouterr().err
