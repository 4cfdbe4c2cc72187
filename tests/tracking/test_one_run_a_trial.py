"""One run a trial and one parent, whatever becomes of an answer or of the process that waits for it."""

import threading

import pytest
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from odmt.tracking import artifacts
from odmt.tracking.connection import is_passing
from odmt.tracking.delivery import Delivery
from odmt.tracking.events import Study, TrialEnded, TrialEpoch, TrialStarted
from odmt.tracking.known_runs import known_runs
from odmt.tracking.runs import RunMirror

SENT = [TrialStarted("t1", 0, {"train": {"seed": 1}}, 1000), TrialEpoch("t1", 1, {"x": 0.5}, 1001)]


def study() -> Study:
    return Study("e", "s", "s1", {}, {"budget.trials": 2})


def runs_of(client) -> list:
    return list(client.search_runs([client.get_experiment_by_name("e").experiment_id]))


def mirror(home) -> RunMirror:
    return RunMirror(home, experiment="e", study="s", study_id="s1", tags={}, params={})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("lost", ["s", "trial-000"])
def test_a_process_killed_between_the_making_of_a_run_and_its_answer_leaves_no_second_one(
    home, client, monkeypatch, lost
):
    create, killed = MlflowClient.create_run, threading.Event()

    def create_run(self, *arguments, **named):
        made = create(self, *arguments, **named)
        if named["run_name"] == lost:
            killed.set()
            raise SystemExit  # its thread ends here and sends nothing more
        return made

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", create_run)
        first = mirror(home)
        first.start()
        first.trial_started("t1", 0, {}, 1000)
        assert killed.wait(20)
    second = mirror(home)
    second.start()
    second.trial_started("t1", 0, {}, 1000)
    second.trial_epoch("t1", 1, {"x": 0.5}, 1001)
    assert second.close() == 0
    assert sorted(run.info.run_name for run in runs_of(client)) == ["s", "trial-000"]


def test_a_twin_that_turns_up_late_is_deleted_and_the_run_in_use_stays(home, client, caplog):
    delivery = Delivery(home, study())
    delivery.send(SENT)
    experiment = client.get_experiment_by_name("e").experiment_id
    mine = delivery.run_id("t1")
    late_child = {"odmt.study_id": "s1", "odmt.trial": "t1", "mlflow.parentRunId": delivery.parent_run_id}
    client.create_run(experiment, start_time=1, tags=late_child)
    client.create_run(experiment, start_time=1, tags={"odmt.study_id": "s1"})
    delivery.look_again()
    assert sorted(run.info.run_id for run in runs_of(client)) == sorted([mine, delivery.parent_run_id])
    assert "a second, empty run of trial t1" in caplog.text
    assert Delivery(home, study()).parent_run_id == delivery.parent_run_id


def test_a_trial_of_a_twin_parent_goes_to_the_parent_that_stays(home, client):
    delivery = Delivery(home, study())
    delivery.send(SENT)
    client.set_tag(delivery.run_id("t1"), "mlflow.parentRunId", "gone")
    found = known_runs(client, client.get_experiment_by_name("e").experiment_id, "s1")
    assert found.parent.info.run_id == delivery.parent_run_id
    tags = client.get_run(delivery.run_id("t1")).data.tags
    assert tags["mlflow.parentRunId"] == delivery.parent_run_id


def test_a_batch_that_arrived_in_part_is_completed_and_nothing_of_it_is_there_twice(home, client, monkeypatch):
    delivery = Delivery(home, study())
    many = TrialEpoch("t1", 1, {f"m/{number}": float(number) for number in range(1500)}, 1001)
    log_batch, times = MlflowClient.log_batch, []

    def stops_midway(self, run_id, metrics=(), params=(), tags=()):
        log_batch(self, run_id, metrics=metrics, params=params, tags=tags)
        if metrics and len(times) < 1:
            times.append(len(metrics))
            raise ConnectionError("the answer got lost")

    delivery.send(SENT[:1])
    monkeypatch.setattr(MlflowClient, "log_batch", stops_midway)
    with pytest.raises(ConnectionError):
        delivery.send([many])
    again = Delivery(home, study())  # another process, which knows what arrived from the metric "epoch" alone
    again.send([SENT[0], many])
    run_id = again.run_id("t1")
    assert times == [900]
    histories = {name: client.get_metric_history(run_id, name) for name in ("m/0", "m/899", "m/900", "m/1499", "epoch")}
    assert {name: [item.step for item in history] for name, history in histories.items()} == {
        name: [1] for name in histories
    }
    assert len(client.get_run(run_id).data.metrics) == 1501


def meet_budget(home, epochs, attempt, now):
    """Send what the log of a study says whose time is up: one interrupted trial."""
    mirrored = mirror(home)
    mirrored.start()
    mirrored.trial_started("t1", 0, {}, 1000, {"odmt.attempts": attempt})
    for epoch in range(1, epochs + 1):
        mirrored.trial_epoch("t1", epoch, {"x": 0.5}, 1000 + epoch)
    mirrored.study_ended("completed", {"trials_interrupted": 1.0}, now)
    assert mirrored.close() == 0


def test_a_study_that_met_its_budget_is_completed_and_its_interrupted_trials_are_killed(home, client):
    meet_budget(home, 1, "1", 2000)
    states = {run.info.run_name: (run.info.status, run.data.tags["odmt.outcome"]) for run in runs_of(client)}
    assert states == {"s": ("FINISHED", "completed"), "trial-000": ("KILLED", "killed")}


def test_a_study_that_met_its_budget_and_is_only_read_again_keeps_its_end_until_it_is_extended(home, client):
    ends = []
    for epochs, attempt, now in ((1, "1", 2000), (2, "1", 3000), (3, "2", 4000)):
        meet_budget(home, epochs, attempt, now)
        ends.append([run.info.end_time for run in sorted(runs_of(client), key=lambda run: run.info.run_name)])
    assert ends == [[2000, 2000], [2000, 2000], [4000, 4000]]
    [child] = [run for run in runs_of(client) if run.info.run_name != "s"]
    assert [item.step for item in client.get_metric_history(child.info.run_id, "x")] == [1, 2, 3]


def test_a_place_for_files_that_stays_closed_does_not_hold_up_the_metrics(home, client, monkeypatch, caplog):
    monkeypatch.setattr(artifacts, "TRIES", 2)
    monkeypatch.setattr(MlflowClient, "log_text", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    delivery = Delivery(home, study())
    events = [*SENT, TrialEnded("t1", "failed", {}, None, "E: no", 1002)]
    with pytest.raises(OSError, match="no space left"):
        delivery.send(events)
    delivery.send(events)
    tags = client.get_run(delivery.run_id("t1")).data.tags
    assert (tags["odmt.outcome"], tags["odmt.reason"], tags["odmt.error_file"]) == (
        "failed", "E: no", "missing: no space left"
    )  # fmt: skip


def test_an_answer_that_is_not_mlflows_own_is_no_refusal():
    assert is_passing(MlflowException("API request to endpoint /x failed with error code 404 != 200", 5))
    assert not is_passing(RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}))


def test_how_mlflow_stands_is_one_sentence(home):
    mirrored = mirror(home)
    assert mirrored.standing == f"MLflow at {home.tracking_uri}: up to date"
    mirrored.trial_started("t1", 0, {}, 1000)
    mirrored.trial_epoch("t1", 1, {}, 1000)
    assert mirrored.standing == f"MLflow at {home.tracking_uri}: 2 events wait"
