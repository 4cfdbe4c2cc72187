import time

import pytest

from odmt.errors import ServiceError
from odmt.tracking.report_files import log_report
from odmt.tracking.runs import RunMirror


@pytest.fixture
def files(tmp_path):
    made = [tmp_path / name for name in ("index.html", "trials.csv")]
    for path in made:
        path.write_text(path.name)
    return made


def mirrored(home):
    mirror = RunMirror(home, experiment="demo", study="x", study_id="0123", tags={}, params={})
    mirror.start()
    mirror.trial_started("t0000", 0, {}, int(time.time() * 1000))
    assert mirror.close() == 0
    return mirror.parent_run_id


def test_a_report_lies_under_the_parent_run_and_a_newer_one_takes_its_place(home, client, files):
    parent = mirrored(home)
    assert log_report(home, "demo", "0123", files) == parent
    files[0].write_text("newer")
    log_report(home, "demo", "0123", files)
    names = [item.path for item in client.list_artifacts(parent, "report")]
    assert names == ["report/index.html", "report/trials.csv"]
    assert (home.artifacts / "demo" / parent / "artifacts" / "report" / "index.html").read_text() == "newer"


def test_a_report_deletes_and_changes_no_run(home, client, files):
    parent = mirrored(home)
    experiment = client.get_experiment_by_name("demo").experiment_id
    client.create_run(experiment, start_time=1, tags={"odmt.study_id": "0123"})
    client.create_run(experiment, start_time=1, tags={"odmt.study_id": "0123", "odmt.trial": "t0000"})
    before = {run.info.run_id: dict(run.data.tags) for run in client.search_runs([experiment])}
    assert log_report(home, "demo", "0123", files) == parent
    assert {run.info.run_id: dict(run.data.tags) for run in client.search_runs([experiment])} == before
    assert len(before) == 4


def test_a_study_that_mlflow_does_not_know_is_one_sentence(home, client, files):
    with pytest.raises(ServiceError, match="has no run of study 4567"):
        log_report(home, "demo", "4567", files)
    mirrored(home)
    with pytest.raises(ServiceError, match="has no run of study 4567"):
        log_report(home, "demo", "4567", files)
