"""No credential is shown, logged or stored."""

import logging
import os
from types import SimpleNamespace

import pytest

from odmt.errors import ServiceError
from odmt.home import Home
from odmt.tracking.artifacts import error_text
from odmt.tracking.connection import client_uri, connect, unreachable
from odmt.tracking.events import Study, TrialEnded
from odmt.tracking.outbox import Outbox
from odmt.tracking.redaction import RedactingFilter, redacted
from odmt.tracking.runs import RunMirror
from odmt.tracking.ui import server_command, server_environment

PASSWORD = "s3cret/pa#ss"


@pytest.fixture(autouse=True)
def _no_account(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # put back afterwards, also where the code sets it
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:geheim1@host:5000/x", "http://host:5000/x"),
        ("postgresql://ann:geheim1@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql+psycopg2://db/mlflow?user=ann&password=geheim1", "postgresql+psycopg2://db/mlflow?user=ann&password=***"),
        ("tried https://token@host and gave up", "tried https://host and gave up"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("models:/odmt-arts@champion", "models:/odmt-arts@champion"),
        ("ann@example.org says no", "ann@example.org says no"),
    ],
)  # fmt: skip
def test_accounts_are_cut_out_of_addresses_and_nothing_else(text, shown):
    assert redacted(text) == shown


def test_a_secret_of_the_environment_is_hidden_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-12345")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p w/1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://ann:{PASSWORD}@db/mlflow")
    text = f"Bearer tok-12345; p w/1 or p%20w/1 or p+w%2F1; postgresql://ann:{PASSWORD}@db/mlflow; {PASSWORD}"
    assert redacted(text) == "Bearer ***; *** or *** or ***; postgresql://db/mlflow; ***"


def test_the_sentence_for_a_server_that_is_away_holds_no_account(monkeypatch):
    uri = f"postgresql://ann:{PASSWORD}@db/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    sentence = str(unreachable(uri, OSError(f"could not connect to {uri} with {PASSWORD}")))
    assert sentence.startswith(
        "MLflow at postgresql://db/mlflow cannot be reached: could not connect to postgresql://db/"
    )
    assert PASSWORD not in sentence


def test_a_web_account_moves_to_the_environment_where_mlflow_reads_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:geh%40eim@host:5000/a")
    assert client_uri(Home.from_environment()) == "http://host:5000/a"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("ann", "geh@eim")


def test_a_mirror_whose_server_is_away_shows_and_logs_no_account(home, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:geheim1@127.0.0.1:9")
    mirrored = RunMirror(home, experiment="e", study="s", study_id="s1", tags={}, params={})
    with caplog.at_level(logging.DEBUG), pytest.raises(ServiceError, match=r"MLflow at http://127.0.0.1:9 ") as caught:
        mirrored.start()
    mirrored.trial_started("t1", 0, {}, 1000)
    assert mirrored.standing.startswith("MLflow at http://127.0.0.1:9: 1 event waits, away for ")
    assert mirrored.close(timeout_seconds=0) == 1
    told = "\n".join([str(caught.value), repr(caught.value.__cause__), mirrored.url, caplog.text, *capfd.readouterr()])
    assert "geheim1" not in told


def test_the_page_of_a_run_holds_no_account(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:geheim1@host:5000/")
    outbox = Outbox(Home.from_environment(), Study("e", "s", "s1", {}, {}))
    assert outbox.run_page is None
    outbox._delivery = SimpleNamespace(experiment_id="3", parent_run_id="abc")
    assert outbox.run_page == "http://host:5000/#/experiments/3/runs/abc"


def test_other_libraries_log_without_secrets(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim1")
    logger, handler = logging.Logger("other"), logging.StreamHandler()
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)
    try:
        raise ValueError("password geheim1")
    except ValueError:
        logger.exception("no way into %s", "http://ann:geheim1@host")
    told = capsys.readouterr().err
    assert "no way into http://host" in told
    assert "ValueError: password ***" in told
    assert "geheim1" not in told


def test_what_a_study_stores_holds_no_secret(home, client, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim1")
    mirrored = RunMirror(
        home, experiment="e", study="s", study_id="s1", tags={"odmt.x": "geheim1"}, params={"p": "http://a:b@c"}
    )
    mirrored.start()
    mirrored.trial_started("t1", 0, {"p": "geheim1"}, 1, {"odmt.source": "http://a:b@c"})
    mirrored.trial_ended("t1", "failed", {}, None, "E: geheim1", 2, "Traceback\nE: geheim1", "login geheim1")
    mirrored.study_tagged({"odmt.aside": "geheim1"})
    assert mirrored.close() == 0
    for file in (home.root / "mlflow.db", *home.artifacts.rglob("error.txt")):
        content = file.read_bytes()
        assert b"geheim1" not in content
        assert b"a:b@c" not in content
    assert len(list(home.artifacts.rglob("error.txt"))) == 1


def test_an_error_file_holds_traceback_reason_and_last_log_lines():
    event = TrialEnded("t1", "failed", {}, None, "E: no", 1, "Traceback\nE: no\n", "epoch 1\nepoch 2\n")
    assert error_text(event) == "Traceback\nE: no\n\nE: no\n\nLast lines of the trial's log:\nepoch 1\nepoch 2"


def test_the_server_of_the_ui_has_the_database_in_its_environment_not_on_its_command_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:geheim1@db/mlflow")
    home = Home.from_environment()
    assert "geheim1" not in " ".join(server_command(home, 5000))
    assert server_environment(home)["MLFLOW_BACKEND_STORE_URI"] == "postgresql://ann:geheim1@db/mlflow"


def test_connecting_leaves_a_filter_on_mlflows_handlers(home):
    connect(home)
    handlers = logging.getLogger("mlflow").handlers
    assert handlers
    assert all(any(isinstance(one, RedactingFilter) for one in handler.filters) for handler in handlers)
