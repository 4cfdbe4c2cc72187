"""A real server that is killed and whose answers get lost: afterwards MLflow says what the event log says, once."""

import random
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from parts import search_events
from parts.mlflow_server import Server

from odmt.tracking import outbox
from odmt.tracking.connection import connect
from odmt.tracking.runs import RunMirror
from odmt.tuning.callbacks import MirrorListener
from odmt.tuning.event_log import EventLog

TRIALS, EPOCHS = 6, 10
RECORDS = TRIALS * (2 + EPOCHS) + 1  # proposed and started a trial, one that fails, its epochs


@pytest.fixture
def server(home):
    made = Server(home)
    made.start()
    yield made
    made.kill()


def mirror(home) -> RunMirror:
    return RunMirror(
        home,
        experiment=search_events.DATASET,
        study=search_events.STUDY,
        study_id=search_events.STUDY_ID,
        tags={},
        params={"budget.trials": TRIALS},
    )


@pytest.mark.slow
def test_a_server_killed_at_random_moments_has_every_metric_exactly_once(home, server, monkeypatch):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setattr(outbox, "LONGEST_WAIT_SECONDS", 2.0)
    mirrored = mirror(home)
    mirrored.start()
    kills = sorted(draw.sample(range(2, RECORDS - 2), 3))
    slowest, back = 0.0, None
    with EventLog(home.study("outage")) as log:
        search_events.begin(log, TRIALS)
        listener = MirrorListener(mirrored)
        log.listeners.append(listener)
        for place, seconds in enumerate(search_events.steps(log, TRIALS, EPOCHS, at_once=2)):
            slowest = max(slowest, seconds)
            time.sleep(0.02)
            if place in kills:
                if back is not None:
                    back.join()
                    time.sleep(draw.uniform(0, 2.5))  # up again for a moment only
                time.sleep(draw.uniform(0, 0.1))
                server.kill()
                back = threading.Timer(draw.uniform(0, 1), server.start)
                back.start()
        back.join()
        listener.study_ended(log.study, time.time())
        assert mirrored.close() == 0
        assert search_events.differences(log, connect(home)) == []
    assert slowest < 1.0  # a commit waits for the disk, never for the server


class _Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, and loses the answers to some that it has carried out."""

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.loses, self.lost = target, lambda path, times: False, {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_PATCH = do_PUT = do_POST  # noqa: N815

    def _pass_on(self, body: bytes | None) -> None:
        headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        request = urllib.request.Request(self.server.target + self.path, body, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        path = self.path.partition("?")[0]
        times = self.server.lost.get((path, body), 0)
        if self.server.loses(path, times):
            self.server.lost[path, body] = times + 1
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *values) -> None:
        del values


@pytest.fixture
def proxy(server):
    made = _Proxy(server.url)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.slow
def test_requests_whose_answers_get_lost_are_sent_again_and_nothing_is_there_twice(home, proxy, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    monkeypatch.setattr(outbox, "FIRST_WAIT_SECONDS", 0.01)
    endings = ("runs/create", "runs/log-batch", "runs/update", "runs/set-tag")
    proxy.loses = lambda path, times: times == 0 and path.endswith(endings)
    mirrored = mirror(home)
    with pytest.raises(Exception, match="cannot be reached"):
        mirrored.start()
    with EventLog(home.study("outage")) as log:
        search_events.begin(log, TRIALS)
        listener = MirrorListener(mirrored)
        log.listeners.append(listener)
        list(search_events.steps(log, TRIALS, EPOCHS, at_once=2))
        deadline = time.monotonic() + 60
        while mirrored.pending and time.monotonic() < deadline:
            time.sleep(0.05)
        listener.study_ended(log.study, time.time())
        while mirrored.pending and time.monotonic() < deadline:
            time.sleep(0.05)
        assert mirrored.close() == 0
        lost = {path.rpartition("/")[2] for path, _ in proxy.lost}
        assert lost == {"create", "log-batch", "update", "set-tag"}
        proxy.loses = lambda path, times: False
        assert search_events.differences(log, connect(home)) == []
