"""What MLflow's server costs a search that it leaves: two minutes away, then killed at random, then compared.

A thread stands in for Tune's loop and commits the records of a synthetic search at an even pace; the event log feeds
the mirror as in a real search. Time inside the mirror's listener is compared with the server up and away. Afterwards
MLflow must hold one run a trial and every metric of every epoch exactly once. The last line is one JSON object.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from parts import search_events
from parts.mlflow_server import Server

from odmt.home import Home

EPOCHS, MOST_TRIALS = 20, 100_000
CATCH_UP_SECONDS = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--away", type=float, default=120, help="seconds without a server (default: 120)")
    parser.add_argument("--up", type=float, default=60, help="seconds with it, before and after (default: 60)")
    parser.add_argument("--kills", type=int, default=3, help="random kills after that (default: 3)")
    parser.add_argument("--rate", type=float, default=25, help="records a second (default: 25)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Home(Path(folder)), arguments)
    print(json.dumps(result))
    return 0 if not result["differences"] else 1


class Timed:
    """The listener, with the time inside it put down by phase."""

    def __init__(self, listener) -> None:
        self.listener, self.phase, self.seconds = listener, "up", {}

    def __call__(self, study, record) -> None:
        """Pass a record on."""
        begun = time.perf_counter()
        self.listener(study, record)
        self.seconds.setdefault(self.phase, []).append(time.perf_counter() - begun)


def measure(home: Home, arguments: argparse.Namespace) -> dict[str, object]:
    import os

    from odmt.tracking.connection import connect
    from odmt.tracking.runs import RunMirror
    from odmt.tuning.callbacks import MirrorListener
    from odmt.tuning.event_log import EventLog

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    connect(home)
    server = Server(home)
    server.start()
    os.environ["MLFLOW_TRACKING_URI"] = server.url
    mirror = RunMirror(
        home,
        experiment=search_events.DATASET,
        study=search_events.STUDY,
        study_id=search_events.STUDY_ID,
        tags={},
        params={},
    )
    mirror.start()
    stop = threading.Event()
    late: dict[str, list[float]] = {}
    with EventLog(home.study("outage")) as log:
        search_events.begin(log, MOST_TRIALS)
        timed = Timed(MirrorListener(mirror))
        log.listeners.append(timed)

        def loop() -> None:
            due = time.perf_counter()
            for _ in search_events.steps(log, MOST_TRIALS, EPOCHS, at_once=8, stop=stop):
                late.setdefault(timed.phase, []).append(max(0.0, time.perf_counter() - due))
                due += 1 / arguments.rate
                time.sleep(max(0.0, due - time.perf_counter()))

        search = threading.Thread(target=loop)
        search.start()
        try:
            most = outages(server, mirror, timed, arguments)
        finally:
            stop.set()
            search.join()
        begun = time.monotonic()
        while mirror.pending and time.monotonic() - begun < CATCH_UP_SECONDS:
            time.sleep(0.2)
        caught_up = time.monotonic() - begun
        print(mirror.standing, flush=True)
        timed.listener.study_ended(log.study, time.time())
        unsent = mirror.close()
        differences = search_events.differences(log, connect(home))
        trials = len(log.study.trials)
        epochs = sum(len(trial.epochs) for trial in log.study.trials.values())
    server.kill()
    inside = {phase: percentiles(seconds) for phase, seconds in timed.seconds.items()}
    for phase, values in inside.items():
        print(f"in the listener, server {phase:8s} " + ", ".join(f"{k} {v} ms" for k, v in values.items()))
    for phase, seconds in late.items():
        print(
            f"a record late by, server {phase:8s} " + ", ".join(f"{k} {v} ms" for k, v in percentiles(seconds).items())
        )
    print(
        f"{trials} trials, {epochs} epochs; {len(differences)} differences between MLflow and the log", *differences[:9]
    )
    return {
        "benchmark": "mlflow_outage",
        "away_seconds": arguments.away,
        "kills": arguments.kills,
        "seed": arguments.seed,
        "trials": trials,
        "epochs": epochs,
        "most_waiting": most,
        "caught_up_seconds": round(caught_up, 1),
        "unsent": unsent,
        "differences": len(differences),
        "listener_ms": inside,
        "late_ms": {phase: percentiles(seconds) for phase, seconds in late.items()},
        "ratio": round(inside["away"]["p99"] / inside["up"]["p99"], 2),
    }


def outages(server, mirror, timed, arguments) -> int:
    """Take the server away for long, then at random while it catches up; return the most events that waited."""
    draw = random.Random(arguments.seed)
    time.sleep(arguments.up)
    print(mirror.standing, flush=True)
    timed.phase = "away"
    server.kill()
    begun, most = time.monotonic(), 0
    while time.monotonic() - begun < arguments.away:
        time.sleep(min(20, max(0.1, arguments.away / 4)))
        most = max(most, mirror.pending)
        print(mirror.standing, flush=True)
    timed.phase = "starting"
    server.start()
    timed.phase = "up"
    time.sleep(arguments.up)
    print(mirror.standing, flush=True)
    for _ in range(arguments.kills):
        time.sleep(draw.uniform(1, 8))
        timed.phase = "killed"
        server.kill()
        time.sleep(draw.uniform(0, 4))
        server.start()
        timed.phase = "up"
    time.sleep(arguments.up / 4)
    return most


def percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": round(p50 * 1000, 4), "p99": round(p99 * 1000, 4), "max": round(max(seconds) * 1000, 4)}


if __name__ == "__main__":
    sys.exit(main())
