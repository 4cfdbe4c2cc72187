"""launch/tune.py as a process to be killed: all of it is real but the data and the training.

Run as ``python kill_driver.py RAY_FOLDER EPOCH_SECONDS ARGUMENTS``, the arguments being those of launch/tune.py.
"""

import os
import runpy
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch

from odmt.experiment.run import EpochResult
from odmt.training.checkpoint import Checkpoint, best_epoch_of

METRIC = "valid/ndcg_at_10"


def space_text(*, trials=8, max_epochs=5, startup_trials=4):
    """Return a space file of two axes: TPE, rungs at every doubling from epoch 2, two trials at once."""
    return f"""
fixed:
  data: {{max_seq_len: 4}}
  model: {{embedding_dim: 8, id_init: random}}
  fusion: {{num_layers: 1}}
  sequence: {{num_layers: 1}}
  train: {{max_epochs: {max_epochs}, batch_size: 8, eval_batch_size: 16}}
incumbent: {{distill.temperature: 0.5, train.weight_decay: 0.1}}
axes:
  distill.temperature: {{type: uniform, low: 0.1, high: 1.0}}
  train.weight_decay: {{type: uniform, low: 0.0, high: 1.0}}
sampler: {{name: tpe, seed: 3, startup_trials: {startup_trials}}}
scheduler: {{name: asha, grace_period: 2, reduction_factor: 2, sentinels: 2}}
budget: {{trials: {trials}}}
resources: {{gpus_per_trial: 0, max_concurrent_trials: 2}}
"""


def noted_epochs(config, arrays, *, checkpoints, seconds):
    """Stand in for ``training_run``: epochs that sleep, noted before and after, and saved before told."""
    last = config.train.max_epochs
    saved = checkpoints.load_latest(torch.device("cpu"))
    history = saved.history if saved is not None else []
    for entry in history:
        path = checkpoints.of_epoch(entry["epoch"])
        yield EpochResult(entry["epoch"], entry["metrics"], seconds, path, entry["epoch"] == last, replayed=True)
    for epoch in range(len(history) + 1, last + 1):
        note(checkpoints, epoch, "begin")
        time.sleep(seconds)
        note(checkpoints, epoch, "end")
        history.append({"epoch": epoch, "seconds": seconds, "metrics": metrics_of(config, epoch)})
        state = Checkpoint(epoch, {"weight": torch.full((2,), float(epoch))}, {"optimizer": {}}, history)
        path = checkpoints.save(state, best_epoch_of(history, METRIC))
        yield EpochResult(epoch, history[-1]["metrics"], seconds, path, epoch == last)


def metrics_of(config, epoch):
    """The lower the weight decay the better; the higher the temperature the later."""
    value = 0.4 - 0.2 * config.train.weight_decay - 0.2 * config.distill.temperature / epoch
    return {METRIC: value, "valid/hr_at_10": 2 * value, "train/loss": 1 / epoch}


def note(checkpoints, epoch, what):
    """Append a line to the study's ``executed.txt``, durably: time, trial, epoch, attempt, process, begin or end."""
    line = f"{time.time()} {checkpoints.folder.name} {epoch} {checkpoints.attempt} {os.getpid()} {what}\n"
    file = os.open(checkpoints.folder.parent.parent / "executed.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


def main(ray_folder, epoch_seconds, *words):
    """Run launch/tune.py with a stand-in for data and training, on a Ray of its own."""
    from fake_search import SOURCE, fake_split

    from odmt.tuning import driver, ending

    def options(**given):
        stand_ins = {"runner": partial(noted_epochs, seconds=float(epoch_seconds)), "source": SOURCE}
        planless = {"opened": lambda folder, inputs: None}  # a plan measures prepared files, and there are none
        return given_options(**{**given, **stand_ins, **planless}, local_cpus=2, ray_folder=Path(ray_folder))

    given_options, driver.Options, ending.load_split = driver.Options, options, fake_split
    script = Path(__file__).resolve().parent.parent / "launch" / "tune.py"
    sys.argv = ["launch/tune.py", *words]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from kill_driver import main as imported_main  # so that Ray's workers find the runner by its module

    imported_main(*sys.argv[1:])
