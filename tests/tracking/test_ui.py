import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil

from odmt.tracking.ui import main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url: str, body: dict | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def test_the_server_answers_lists_the_experiment_and_ends_with_all_its_children(home, client):
    client.create_experiment("odmt-demo", artifact_location=home.artifacts.as_uri())
    port = free_port()
    command = [sys.executable, "-m", "odmt.tracking.ui", "--port", str(port)]
    with subprocess.Popen(command, env=os.environ | {"ODMT_HOME": str(home.root)}, stderr=subprocess.DEVNULL) as ui:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 90
            while True:
                try:
                    health = ask(f"{url}/health")
                    break
                except OSError:
                    assert ui.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            assert health == "OK"
            found = json.loads(ask(f"{url}/api/2.0/mlflow/experiments/search", {"max_results": 10}))
            assert "odmt-demo" in [experiment["name"] for experiment in found["experiments"]]
            family = psutil.Process(ui.pid).children(recursive=True)
            assert family
        finally:
            ui.send_signal(signal.SIGTERM)
            code = ui.wait(timeout=30)
    assert code == 0
    assert [process for process in family if process.is_running()] == []


def test_a_server_is_not_started_on_a_server(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main([]) == 5
    assert "is a server already: open http://127.0.0.1:9" in capsys.readouterr().err
