"""What the search itself costs: Ray Tune, Optuna, the event log and MLflow around trials that do nothing.

Each row is a whole search on a local Ray with two trials at once: short trials with one report and with ten (the
difference is a report), workers used again and not, MLflow's database there and its server away; two rows at the pace
of a real search, an epoch a second; then many trials of no work at all. The cost of a trial is the time between the
first trial's start and the last one's end, divided by the trials and multiplied by the number at once: what a worker
loses to everything but its work. ``start`` is the time from a trial's record ``started`` to its first report.
Callbacks are timed inside Tune's loop.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
SPACE = """
fixed:
  data: {{dataset: demo}}
  features:
    text: {{model: ./encoders/text, layer: -1, max_tokens: 16}}
    image: {{model: ./encoders/image, layer: -1, image_size: 32}}
  model: {{embedding_dim: 32, id_init: random}}
  train: {{max_epochs: {epochs}, grad_clip: {seconds}}}
incumbent:
  train.learning_rate: 1e-3
  train.weight_decay: 0.1
  fusion.dropout: 0.1
  sequence.dropout: 0.1
  distill.temperature: 0.5
axes:
  train.learning_rate: {{type: loguniform, low: 1e-4, high: 1e-2}}
  train.weight_decay: {{type: uniform, low: 0.0, high: 1.0}}
  fusion.dropout: {{type: uniform, low: 0.0, high: 0.5}}
  sequence.dropout: {{type: uniform, low: 0.0, high: 0.5}}
  distill.temperature: {{type: uniform, low: 0.1, high: 1.0}}
scheduler: {{name: none}}
budget: {{trials: {trials}}}
resources: {{gpus_per_trial: 0, max_concurrent_trials: 2, reuse_workers: {reuse}}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="short trials a row")
    parser.add_argument("--fresh", type=int, default=40, help="trials of the row without worker reuse")
    parser.add_argument("--idle", type=int, default=1000, help="trials of no work")
    parser.add_argument("--paced", type=int, default=40, help="trials of ten epochs of a second each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(search(**json.loads(arguments.one))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments)
    print(json.dumps(result))
    return 0


def measure(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    environment = os.environ | {"ODMT_HOME": str(root)}
    environment.pop("RAY_ADDRESS", None)
    prepare = [sys.executable, str(CHECKOUT / "launch" / "prepare.py"), "--dataset", "demo"]
    subprocess.run(prepare, check=True, env=environment, stdout=subprocess.DEVNULL)
    short = {"seconds": 0.1, "away": False, "reuse": True}
    rows = {
        "reused, 1 report": {**short, "trials": arguments.trials, "epochs": 1},
        "reused, 10 reports": {**short, "trials": arguments.trials, "epochs": 10, "seconds": 0.01},
        "reused, 10 reports, MLflow away": {
            **short, "trials": arguments.trials, "epochs": 10, "seconds": 0.01, "away": True
        },
        "an epoch a second": {**short, "trials": arguments.paced, "epochs": 10, "seconds": 1.0},
        "an epoch a second, MLflow away": {
            **short, "trials": arguments.paced, "epochs": 10, "seconds": 1.0, "away": True
        },
        "fresh workers, 1 report": {**short, "trials": arguments.fresh, "epochs": 1, "reuse": False},
        "no work": {**short, "trials": arguments.idle, "epochs": 1, "seconds": 0.0},
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, row in rows.items():
        command = [sys.executable, __file__, "--one", json.dumps({"root": str(root), "name": name, **row})]
        ended = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(ended.stdout.splitlines()[-1])
        show(name, found[name])
    per_report = (found["reused, 10 reports"]["seconds_a_trial"] - found["reused, 1 report"]["seconds_a_trial"]) / 9
    share = found["reused, 1 report"]["seconds_a_trial"] / 60
    print(f"a report costs {per_report * 1000:.1f} ms; a trial of a minute loses {share:.2%} to the search around it")
    return {
        "benchmark": "overhead",
        "rows": found,
        "report_seconds": per_report,
        "share_of_a_minute": share,
        "ratio": found["fresh workers, 1 report"]["seconds_a_trial"] / found["reused, 1 report"]["seconds_a_trial"],
    }


def show(name: str, row: dict[str, Any]) -> None:
    print(
        f"{name:32s} {row['trials']:5d} trials in {row['wall_seconds']:6.1f} s; {row['seconds_a_trial'] * 1000:7.1f} ms"
        f" a trial; start {row['start_seconds'] * 1000:6.1f} ms; callbacks p50 {row['callback_ms']['p50']:.2f},"
        f" p99 {row['callback_ms']['p99']:.2f}, most {row['callback_ms']['most']:.2f} ms;"
        f" driver {row['driver_mb']:.0f} MB (grown {row['driver_grown_mb']:.0f})",
        flush=True,
    )


def search(
    *, root: str, name: str, trials: int, epochs: int, seconds: float, reuse: bool, away: bool
) -> dict[str, Any]:
    """Run one search in this process; its own MLflow database, or a port where nobody listens."""
    import psutil
    from parts.idle_trials import idle_run

    from odmt.home import Home
    from odmt.tuning.driver import Options, run_study
    from odmt.tuning.event_log import read_log
    from odmt.tuning.space import load_space

    home = Home(Path(root))
    study = name.replace(" ", "-").replace(",", "")
    database = f"sqlite:///{home.root / study}.db"
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9" if away else database
    path = home.root / f"{study}.yaml"
    path.write_text(
        SPACE.format(epochs=epochs, seconds=seconds + 1e-6, trials=trials, reuse=str(reuse).lower()), encoding="utf-8"
    )
    space = load_space(str(path))
    process = psutil.Process()
    sizes: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            sizes.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    options = Options(where="local", quiet=True, runner=idle_run, make_mirror=lambda header: mirror(home, header))
    try:
        with callbacks_timed() as durations:
            run_study(space, home, study, options)
    finally:
        ended.set()
        watcher.join()
    wall = time.perf_counter() - begun
    log = read_log(home.study(study) / "events.jsonl")
    span = max(one.ended for one in log.trials.values()) - min(one.started for one in log.trials.values())
    work = trials * epochs * seconds
    milliseconds = sorted(1000 * one for one in durations)
    return {
        "trials": trials,
        "wall_seconds": wall,
        "search_seconds": span,
        "seconds_a_trial": (2 * span - work) / trials,
        "start_seconds": statistics.median(one.epochs[0].time - one.started for one in log.trials.values()) - seconds,
        "callbacks": len(milliseconds),
        "callback_ms": {
            "p50": statistics.median(milliseconds),
            "p99": milliseconds[int(0.99 * len(milliseconds))],
            "most": milliseconds[-1],
        },
        "driver_mb": max(sizes) / 2**20,
        "driver_grown_mb": (max(sizes) - statistics.median(sizes[: max(1, len(sizes) // 10)])) / 2**20,
    }


class callbacks_timed:  # noqa: N801
    """Time every call by which Tune's loop asks for a trial or tells a report, and that does something."""

    def __enter__(self) -> list[float]:
        from odmt.tuning.watch import Watch

        self.durations: list[float] = []
        for name in ("hand_out", "report", "died", "left"):
            setattr(Watch, name, self._timed(getattr(Watch, name)))
        return self.durations

    def _timed(self, call: Any) -> Any:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            result = call(*arguments, **named)
            if result != "later":  # "nothing yet" is asked thousands of times, and would flatter the percentiles
                self.durations.append(time.perf_counter() - started)
            return result

        return timed

    def __exit__(self, *exception: object) -> None:
        return None


def mirror(home: Any, header: Any) -> Any:
    from odmt.errors import ServiceError
    from odmt.tracking.runs import RunMirror

    made = RunMirror(
        home, experiment="overhead", study=header["study"], study_id=header["study_id"], tags={}, params={}
    )
    try:
        made.start()
    except ServiceError as error:
        print(error, file=sys.stderr)
    return made


if __name__ == "__main__":
    sys.exit(main())
