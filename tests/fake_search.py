"""Stand-ins for data and training, for tests of the search; a module of its own so that Ray's workers import it."""

import json
import math
import os
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray
import torch
from small_arrays import in_shards, small_arrays

from odmt.cluster.shared_features import Loaders
from odmt.config import TextEncoderConfig
from odmt.errors import NonFiniteError
from odmt.experiment.run import EpochResult
from odmt.features.ragged import FeatureShard
from odmt.features.shards import LoadedShard
from odmt.home import Home
from odmt.training.features import ItemFeatures
from odmt.tuning.driver import Options, run_study
from odmt.tuning.preflight import Inputs, Source
from odmt.tuning.space import load_space

SPACE = """
fixed:
  data: {max_seq_len: 4}
  model: {embedding_dim: 8, id_init: random}
  fusion: {num_layers: 1}
  sequence: {num_layers: 1}
  train: {max_epochs: 6, batch_size: 8, eval_batch_size: 16}
incumbent: {distill.temperature: 0.5, train.weight_decay: 0.1}
axes:
  distill.temperature: {type: uniform, low: 0.1, high: 1.0}
  train.weight_decay: {type: uniform, low: 0.0, high: 1.0}
sampler: {seed: 3, startup_trials: 3}
scheduler: {grace_period: 2, reduction_factor: 2}
budget: {trials: 8}
resources: {gpus_per_trial: 0, max_concurrent_trials: 2}
"""


def write_space(folder, text=SPACE, name="small"):
    path = Path(folder) / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def fake_split(home, data):
    return small_arrays(max_seq_len=data.max_seq_len).split


class FakePlan(NamedTuple):
    """Which rows of which small features a shard holds."""

    num_rows: int
    rows: list[int]
    max_seq_len: int
    is_text: bool


def fake_plan(home, data, encoder):
    """Three shards, in another order than the catalogue's."""
    num_rows = small_arrays(max_seq_len=data.max_seq_len).text.num_rows
    runs = [list(range(start, num_rows, 3)) for start in (1, 2, 0)]
    return [FakePlan(num_rows, rows, data.max_seq_len, isinstance(encoder, TextEncoderConfig)) for rows in runs]


def fake_shard(plan):
    arrays = small_arrays(max_seq_len=plan.max_seq_len)
    (shard,) = in_shards(arrays.text if plan.is_text else arrays.image, [plan.rows]).shards
    return checked(shard)


def checked(shard):
    parts = np.split(shard.tokens, shard.offsets[1:-1])
    return LoadedShard(shard, np.array([zlib.crc32(part.tobytes()) for part in parts], dtype=np.uint32))


def fake_inputs(home, space):
    return Inputs("fake-data", 1_000_000, [])


SOURCE = Source(fake_inputs, Loaders(fake_split, fake_plan, fake_shard))


def options(runner, source=SOURCE, **others):
    return Options(runner=runner, source=source, quiet=True, **others)


def quick_runner(config, arrays, *, checkpoints):
    """The lower the weight decay the better. Epochs are noted in the study's folder, and survive a restart."""
    yield from fake_epochs(config, checkpoints, seconds=0.02)


def slow_runner(config, arrays, *, checkpoints):
    yield from fake_epochs(config, checkpoints, seconds=0.25)


def failing_runner(config, arrays, *, checkpoints):
    """Trial 1 reports NaN, trial 2 raises, trial 3 raises NonFiniteError: each at its second epoch."""
    number = int(checkpoints.folder.name[1:])
    for result in fake_epochs(config, checkpoints, seconds=0.02):
        if result.epoch == 2 and number == 1:
            result.metrics["valid/ndcg_at_10"] = math.nan
        if result.epoch == 2 and number == 2:
            raise ZeroDivisionError("no such luck")
        if result.epoch == 2 and number == 3:
            raise NonFiniteError("the loss is NaN at step 7")
        yield result


def dying_runner(config, arrays, *, checkpoints):
    """The worker of trial 1 is killed at its second epoch, once."""
    for result in fake_epochs(config, checkpoints, seconds=0.05):
        if result.epoch == 2 and checkpoints.folder.name == "t0001" and checkpoints.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result


def hanging_runner(config, arrays, *, checkpoints):
    """Trial 1 sleeps for ever at its second epoch, once."""
    for result in fake_epochs(config, checkpoints, seconds=0.05):
        if result.epoch == 2 and checkpoints.folder.name == "t0001" and checkpoints.attempt == 1:
            time.sleep(10_000)
        yield result


def greedy_runner(config, arrays, *, checkpoints):
    """Trial 1 asks for more memory than there is, unless its items are recomputed; trial 2 always does."""
    for result in fake_epochs(config, checkpoints, seconds=0.02):
        name = checkpoints.folder.name
        if result.epoch == 2 and (name == "t0002" or (name == "t0001" and not config.train.recompute_items)):
            print("one more batch")
            torch.empty(2**50, dtype=torch.uint8)
        yield result


def doomed_runner(config, arrays, *, checkpoints):
    """Dies at once on the node that ``doomed.txt`` in the study's folder names."""
    doomed = checkpoints.folder.parent.parent / "doomed.txt"
    if doomed.exists() and ray.get_runtime_context().get_node_id() == doomed.read_text():
        os.kill(os.getpid(), signal.SIGKILL)
    yield from fake_epochs(config, checkpoints, seconds=1.0)


def saving_runner(config, arrays, *, checkpoints):
    """Saves a megabyte an epoch."""
    for result in fake_epochs(config, checkpoints, seconds=0.1):
        with open(checkpoints.folder / f"state-{result.epoch}", "wb") as file:
            file.write(bytes(2**20))
        yield result


def silent_runner(config, arrays, *, checkpoints):
    """Trial 1 ends without a last report."""
    for result in fake_epochs(config, checkpoints, seconds=0.02):
        if result.epoch == 2 and checkpoints.folder.name == "t0001":
            return
        yield result


def writing_runner(config, arrays, *, checkpoints):
    """Trial 1 scales the shared text features in place, which NumPy forbids and torch does not notice."""
    for result in fake_epochs(config, checkpoints, seconds=0.05):
        if result.epoch == 2 and checkpoints.folder.name == "t0001":
            torch.from_numpy(arrays.text.shards[1].tokens).mul_(2)
        yield result


def gathering_runner(config, arrays, *, checkpoints):
    """Gathers rows of large features and tells the private memory of its process before and after."""
    import psutil

    uss_before, anonymous_before = psutil.Process().memory_full_info().uss, anonymous_bytes()
    rng = np.random.default_rng(0)
    rows = np.arange(arrays.text.num_rows)
    features = ItemFeatures(rows, arrays.text, arrays.image, torch.device("cpu"))
    for result in fake_epochs(config, checkpoints, seconds=0.5):
        features.groups(rng.integers(1, arrays.text.num_rows + 1, 64))
        result.metrics["uss_grown"] = psutil.Process().memory_full_info().uss - uss_before
        result.metrics["anonymous_grown"] = anonymous_bytes() - anonymous_before
        result.metrics["writeable"] = float(any(shard.tokens.flags.writeable for shard in arrays.text.shards))
        yield result


def anonymous_bytes():
    """Memory of this process alone. USS also counts pages of the object store that no one else has touched yet."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


LARGE_BYTES = 320 * 2**20


def large_plan(home, data, encoder):
    """320 MiB each, text and image: many rows of ten tokens, in four shards."""
    rows = LARGE_BYTES // (2 * 768 * 10)
    return [FakePlan(rows, list(range(start, rows, 4)), 0, False) for start in range(4)]


def large_shard(plan):
    rows, tokens_a_row = np.array(plan.rows, dtype=np.int32), 10
    tokens = np.ones((len(rows) * tokens_a_row, 768), dtype=np.float16)
    return checked(FeatureShard(tokens, np.arange(len(rows) + 1, dtype=np.int64) * tokens_a_row, rows))


def fake_epochs(config, checkpoints, seconds):
    folder = checkpoints.folder
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "history.json"
    history = json.loads(saved.read_text()) if saved.exists() else []
    for epoch, value in enumerate(history, start=1):
        yield EpochResult(epoch, {"valid/ndcg_at_10": value}, 0.1, folder, replayed=True)
    for epoch in range(len(history) + 1, config.train.max_epochs + 1):
        time.sleep(seconds)
        with open(folder.parent.parent / "executed.txt", "a") as file:
            file.write(f"{folder.name} {epoch} {os.getpid()}\n")
        history.append(epoch / 100 - config.train.weight_decay / 10 + 0.2)
        partial = folder / f"history.{os.getpid()}"
        partial.write_text(json.dumps(history))
        partial.replace(saved)
        yield EpochResult(epoch, {"valid/ndcg_at_10": history[-1]}, 0.1, folder)


def executed(home, name):
    """Return (trial, epoch, process) of every epoch that any worker ran."""
    lines = (home.study(name) / "executed.txt").read_text().splitlines()
    return [(trial, int(epoch), int(pid)) for trial, epoch, pid in map(str.split, lines)]


def drive(root, space, name):
    """Run a study as a process of its own: the exit code as launch/tune.py would have it."""
    from odmt.errors import OdmtError

    try:
        run_study(load_space(space), Home(Path(root)), name, options(slow_runner, command="go on", where="attach"))
    except OdmtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from fake_search import drive as imported_drive

    sys.exit(imported_drive(*sys.argv[1:]))
