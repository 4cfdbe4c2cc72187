import math
import shutil
import time
from pathlib import Path

import pytest
import yaml

from odmt.errors import ServiceError
from odmt.home import Home
from odmt.tracking import outbox
from odmt.tracking.connection import connect, is_passing
from odmt.tracking.delivery import Delivery
from odmt.tracking.runs import RunMirror

PARAMS = {"data.dataset": "demo", "train.learning_rate": 1e-3, "model.id_dim": None}


def mirror(home: Home, **changes) -> RunMirror:
    settings = {
        "experiment": "odmt-demo",
        "study": "demo",
        "study_id": "s1",
        "tags": {"odmt.data_digest": "d1", "odmt.code_version": "0.1.0"},
        "params": {"budget.trials": 2},
    }
    return RunMirror(home, **settings | changes)


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("weights.safetensors", "state.pt", "meta.json"):
        (folder / name).write_text(name)
    return folder


def send_all(mirrored: RunMirror, folder: Path, *, epochs: int = 2) -> None:
    mirrored.trial_started("t1", 0, PARAMS, 1000)
    for epoch in range(1, epochs + 1):
        metrics = {"valid/ndcg_at_10": epoch / 10, "train/loss": math.inf if epoch == 2 else 3.0}
        mirrored.trial_epoch("t1", epoch, metrics, 1000 + epoch)
    mirrored.trial_ended("t1", "completed", {"valid/ndcg_at_10": 0.2}, folder, None, 2000)
    mirrored.trial_started("t2", 1, PARAMS | {"train.learning_rate": 1e-2}, 1500)
    mirrored.trial_epoch("t2", 1, {"valid/ndcg_at_10": 0.05}, 1501)
    mirrored.trial_ended("t2", "failed", {}, None, "Traceback\nNonFiniteError: loss is NaN\n\n  \n", 1600)
    mirrored.study_ended("completed", {"best/ndcg_at_10": 0.2}, 3000)


def runs_of(client) -> dict[str, list]:
    found: dict[str, list] = {}
    experiment = client.get_experiment_by_name("odmt-demo")
    for run in client.search_runs([experiment.experiment_id]):
        found.setdefault(run.info.run_name, []).append(run)
    return found


@pytest.fixture
def sent(home, client, tmp_path):
    mirrored = mirror(home)
    mirrored.start()
    send_all(mirrored, checkpoint(tmp_path / "e000002-a001-ff"))
    assert mirrored.close() == 0
    return {name: found for name, [found] in runs_of(client).items()}


def test_a_study_is_a_parent_run_with_one_child_a_trial(sent):
    assert set(sent) == {"demo", "trial-000", "trial-001"}
    assert {sent[name].data.tags["mlflow.parentRunId"] for name in ("trial-000", "trial-001")} == {
        sent["demo"].info.run_id
    }
    tags = sent["trial-000"].data.tags
    assert (tags["odmt.study"], tags["odmt.trial"], tags["odmt.outcome"]) == ("demo", "t1", "completed")
    assert (tags["odmt.data_digest"], tags["odmt.code_version"]) == ("d1", "0.1.0")
    assert [sent[name].info.status for name in sorted(sent)] == ["FINISHED", "FINISHED", "FAILED"]
    assert sent["trial-000"].data.params == {name: str(value) for name, value in PARAMS.items()}
    assert sent["demo"].data.params == {"budget.trials": "2"}
    assert sent["demo"].data.metrics["best/ndcg_at_10"] == 0.2


def test_every_epoch_has_its_step_and_time_and_infinity_is_named_not_stored(sent, client):
    run_id = sent["trial-000"].info.run_id
    history = client.get_metric_history(run_id, "valid/ndcg_at_10")
    assert [(item.step, item.value, item.timestamp) for item in history] == [(1, 0.1, 1001), (2, 0.2, 1002)]
    assert [item.value for item in client.get_metric_history(run_id, "train/loss")] == [3.0]
    assert sent["trial-000"].data.tags["odmt.non_finite"] == "train/loss (inf) of epoch 2"
    assert sent["trial-000"].data.metrics["best/ndcg_at_10"] == 0.2


def test_the_best_checkpoint_travels_without_the_optimiser(sent, client, tmp_path):
    run_id = sent["trial-000"].info.run_id
    names = {item.path for item in client.list_artifacts(run_id, "checkpoint")}
    assert names == {"checkpoint/weights.safetensors", "checkpoint/meta.json", "checkpoint/config.yaml"}
    text = Path(client.download_artifacts(run_id, "checkpoint/config.yaml", str(tmp_path))).read_text()
    assert yaml.safe_load(text) == {
        "data": {"dataset": "demo"}, "train": {"learning_rate": 1e-3}, "model": {"id_dim": None}
    }  # fmt: skip


def test_a_checkpoint_file_that_cannot_be_read_is_told_and_the_trial_ends(home, client, tmp_path, caplog):
    folder = checkpoint(tmp_path / "e1")
    (folder / "meta.json").unlink()
    (folder / "meta.json").mkdir()
    mirrored = mirror(home)
    mirrored.start()
    send_all(mirrored, folder)
    assert mirrored.close() == 0
    run = runs_of(client)["trial-000"][0]
    assert (run.info.status, run.data.tags["odmt.checkpoint"]) == ("FINISHED", "missing meta.json: Is a directory")
    assert "meta.json cannot be read and is not sent to MLflow" in caplog.text


def test_a_checkpoint_file_that_goes_while_it_is_sent_is_not_a_server_that_is_away(home, client, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    log = MlflowClient.log_artifact

    def late(self, run_id, path, where):
        if Path(path).name == "weights.safetensors":
            Path(path).unlink()
        log(self, run_id, path, where)

    monkeypatch.setattr(MlflowClient, "log_artifact", late)
    mirrored = mirror(home)
    mirrored.start()
    send_all(mirrored, checkpoint(tmp_path / "e1"))
    assert mirrored.close() == 0
    tag = runs_of(client)["trial-000"][0].data.tags["odmt.checkpoint"]
    assert tag == "missing weights.safetensors: No such file or directory"


def test_a_failed_trial_keeps_its_reason(sent, client, tmp_path):
    run = sent["trial-001"]
    assert run.data.tags["odmt.reason"] == "NonFiniteError: loss is NaN"
    text = Path(client.download_artifacts(run.info.run_id, "error.txt", str(tmp_path))).read_text()
    assert text.startswith("Traceback")


def test_sending_the_whole_log_again_adds_nothing_and_goes_on_after_the_last_epoch(home, client, tmp_path):
    first = mirror(home)
    first.start()
    first.trial_started("t1", 0, PARAMS, 1000)
    first.trial_epoch("t1", 1, {"valid/ndcg_at_10": 0.1, "train/loss": 3.0}, 1001)
    assert first.close() == 0
    for _ in range(2):
        again = mirror(home, params={"budget.trials": 3})
        again.start()
        send_all(again, tmp_path / "e1" if (tmp_path / "e1").exists() else checkpoint(tmp_path / "e1"), epochs=3)
        assert again.close() == 0
    found = runs_of(client)
    assert {name: len(items) for name, items in found.items()} == {"demo": 1, "trial-000": 1, "trial-001": 1}
    history = client.get_metric_history(found["trial-000"][0].info.run_id, "valid/ndcg_at_10")
    assert [item.step for item in history] == [1, 2, 3]
    assert found["demo"][0].data.tags["odmt.now.budget.trials"] == "3"


def test_a_killed_study_ends_its_open_runs_and_a_resumed_one_opens_them_again(home, client):
    first = mirror(home)
    first.start()
    first.trial_started("t1", 0, PARAMS, 1000)
    first.study_ended("killed", {}, 1500)
    assert first.close() == 0
    assert {name: run.info.status for name, [run] in runs_of(client).items()} == {
        "demo": "KILLED", "trial-000": "KILLED"
    }  # fmt: skip
    assert {run.data.tags["odmt.outcome"] for [run] in runs_of(client).values()} == {"killed"}
    second = mirror(home)
    second.start()
    second.trial_started("t1", 0, PARAMS, 1000)
    assert second.close() == 0
    assert {name: run.info.status for name, [run] in runs_of(client).items()} == {
        "demo": "RUNNING", "trial-000": "RUNNING"
    }  # fmt: skip
    assert {run.data.tags["odmt.outcome"] for [run] in runs_of(client).values()} == {"running"}


def test_a_finished_study_run_again_leaves_its_parent_run_as_it_is(home, client, sent, tmp_path):
    again = mirror(home)
    again.start()
    again.trial_started("t1", 0, PARAMS, 1000)
    again.study_ended("completed", {"best/ndcg_at_10": 0.2}, 9000)
    assert again.close() == 0
    parent = runs_of(client)["demo"][0]
    assert parent.info.end_time == 3000
    assert len(client.get_metric_history(parent.info.run_id, "best/ndcg_at_10")) == 1

    more = mirror(home)
    more.start()
    more.trial_started("t3", 2, PARAMS, 9000)
    more.trial_ended("t3", "completed", {}, None, None, 9500)
    more.study_ended("completed", {"best/ndcg_at_10": 0.3}, 9900)
    assert more.close() == 0
    parent = runs_of(client)["demo"][0]
    assert (parent.info.end_time, parent.data.metrics["best/ndcg_at_10"]) == (9900, 0.3)
    assert (parent.info.status, parent.data.tags["odmt.outcome"]) == ("FINISHED", "completed")


def test_a_run_whose_making_was_answered_to_nobody_is_not_made_twice(home, client, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(outbox, "FIRST_WAIT_SECONDS", 0.05)
    create, lost = MlflowClient.create_run, []

    def create_run(self, *arguments, **named):
        made = create(self, *arguments, **named)
        if named["run_name"] == "trial-000" and not lost:
            lost.append(made.info.run_id)
            raise ConnectionError("the answer got lost")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    mirrored = mirror(home)
    mirrored.start()
    mirrored.trial_started("t1", 0, PARAMS, 1000)
    for _ in range(100):
        if not mirrored.pending:
            break
        time.sleep(0.05)
    assert mirrored.close() == 0
    assert [run.info.run_id for run in runs_of(client)["trial-000"]] == lost


def test_more_metrics_than_a_request_holds_all_arrive(home, client):
    mirrored = mirror(home)
    mirrored.start()
    mirrored.trial_started("t1", 0, {f"p.{number}": number for number in range(250)}, 1)
    mirrored.trial_epoch("t1", 1, {f"m/{number}": number for number in range(1100)}, 2)
    assert mirrored.close() == 0
    run = runs_of(client)["trial-000"][0]
    assert (len(run.data.params), len(run.data.metrics)) == (250, 1101)


def test_while_the_server_is_away_nothing_blocks_and_afterwards_nothing_is_missing(home, client, monkeypatch, tmp_path):
    monkeypatch.setattr(outbox, "FIRST_WAIT_SECONDS", 0.05)
    send, away = Delivery.send, [True]

    def flaky(delivery, events, arrived):
        if away[0]:
            raise ConnectionError("connection refused")
        send(delivery, events, arrived)

    monkeypatch.setattr(Delivery, "send", flaky)
    mirrored = mirror(home)
    mirrored.start()
    started = time.perf_counter()
    send_all(mirrored, checkpoint(tmp_path / "e1"))
    assert time.perf_counter() - started < 0.1
    time.sleep(0.2)
    assert mirrored.pending == 8
    away[0] = False
    assert mirrored.close() == 0
    assert set(runs_of(client)) == {"demo", "trial-000", "trial-001"}


def test_close_says_what_has_not_arrived(home, monkeypatch):
    monkeypatch.setattr(
        Delivery, "send", lambda delivery, events, arrived: (_ for _ in ()).throw(ConnectionError("refused"))
    )
    mirrored = mirror(home)
    mirrored.start()
    mirrored.trial_started("t1", 0, PARAMS, 1000)
    mirrored.trial_epoch("t1", 1, {}, 1001)
    started = time.perf_counter()
    assert mirrored.close(timeout_seconds=0.3) == 2
    assert time.perf_counter() - started < 2


def test_close_gives_a_server_that_is_away_one_more_try(home, monkeypatch):
    tries = []

    def away(delivery, events, arrived):
        tries.append(len(events))
        raise ConnectionError("refused")

    monkeypatch.setattr(Delivery, "send", away)
    monkeypatch.setattr(Delivery, "look_again", lambda delivery: None)
    monkeypatch.setattr(outbox, "FIRST_WAIT_SECONDS", 30.0)
    mirrored = mirror(home)
    mirrored.start()
    mirrored.trial_started("t1", 0, PARAMS, 1000)
    while "away for" not in mirrored.standing:
        time.sleep(0.01)
    started = time.perf_counter()
    assert mirrored.close(timeout_seconds=60) == 1
    assert time.perf_counter() - started < 2
    assert tries == [1, 1]


def test_close_waits_seconds_only_for_a_last_try_that_hangs(home, monkeypatch):
    import threading

    release = threading.Event()
    monkeypatch.setattr(outbox, "LAST_TRY_SECONDS", 0.2)
    mirrored = mirror(home)
    monkeypatch.setattr(outbox, "Delivery", lambda *_: (_ for _ in ()).throw(ServiceError("refused")))
    with pytest.raises(ServiceError, match="refused"):
        mirrored.start()
    monkeypatch.setattr(outbox, "Delivery", lambda *_: release.wait(30))
    mirrored.trial_started("t1", 0, PARAMS, 1000)
    started = time.perf_counter()
    assert mirrored.close(timeout_seconds=60) == 1
    assert time.perf_counter() - started < 2
    release.set()


def test_an_event_that_is_refused_for_good_does_not_hold_up_the_others(home, client, caplog):
    mirrored = mirror(home)
    mirrored.start()
    mirrored.trial_epoch("nobody", 1, {"x": 1.0}, 1)
    mirrored.trial_started("t1", 0, PARAMS, 1000)
    assert mirrored.close() == 1
    assert "trial-000" in runs_of(client)
    assert "MLflow refuses TrialEpoch(trial_id='nobody'" in caplog.text


def test_an_unreachable_server_is_one_sentence_within_seconds(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match=r"MLflow at http://127.0.0.1:9 cannot be reached: .*; start it or unset"):
        connect(home)


def test_two_first_starts_at_once_make_one_quiet_database(parallel_start):
    _, codes, errors = parallel_start
    assert codes == [0, 0]
    assert errors == ["", ""]


def test_a_first_start_killed_midway_does_not_block_the_next(parallel_start, tmp_path, monkeypatch):
    from mlflow.store.db import utils

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db.123.tmp").write_text("half a database")
    (tmp_path / "mlflow.db.123.tmp-journal").write_text("its journal")

    def killed(engine):
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE _alembic_tmp_model_versions (name TEXT)")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", killed)
        with pytest.raises(KeyboardInterrupt):
            connect(Home(tmp_path))
    assert not (tmp_path / "mlflow.db").exists()
    # In place of the migrations, which cost seconds, a copy of what they made.
    monkeypatch.setattr(utils, "_initialize_tables", lambda engine: shutil.copy(parallel_start[0], engine.url.database))
    assert connect(Home(tmp_path)).search_experiments()
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_wrong_request_is_told_from_a_server_that_is_away():
    from mlflow.exceptions import MlflowException

    assert is_passing(MlflowException("API request failed"))
    assert is_passing(ConnectionError("refused"))
    assert not is_passing(MlflowException.invalid_parameter_value("changed param"))
    assert not is_passing(KeyError("t1"))


def test_before_start_nothing_heavy_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, odmt.tracking.runs, odmt.tracking.registry; print('mlflow' in sys.modules, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
