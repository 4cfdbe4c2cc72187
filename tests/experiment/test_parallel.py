"""Two processes on a CPU (Gloo). What they share is computed again by one process."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from greedy_process import greedy_follow
from small_arrays import in_shards, numbers, small_arrays, small_config

from odmt.errors import ConfigError, NonFiniteError
from odmt.experiment import parallel
from odmt.experiment.parallel import process_group
from odmt.experiment.run import training_run
from odmt.features.ragged import RaggedFeatures
from odmt.model.gathering import gather_rows
from odmt.training.checkpoint import Checkpoint, CheckpointFolder, load_weights
from odmt.tuning.failures import is_fault_of_machine, is_out_of_memory

STILL = {"fusion": {"dropout": 0.0}, "sequence": {"dropout": 0.0}}
TWO = {"max_epochs": 4, "data_parallel": 2}


@pytest.fixture(scope="module")
def arrays():
    return small_arrays(users=37)  # an uneven last step


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    assert multiprocessing.active_children() == []
    assert not dist.is_initialized()
    assert list(tmp_path.glob("odmt-parallel-*")) == []


def ran(folder, arrays, epochs=None, **sections):
    """Run, or only some epochs of it, and return each epoch's metrics and the last weights."""
    run = training_run(small_config(**sections), arrays, checkpoints=CheckpointFolder(folder))
    results = list(islice(run, epochs))
    run.close()
    return numbers(results), load_weights(results[-1].checkpoint)


def assert_close(found, expected):
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_processes_with_local_negatives_are_one_that_accumulates_two_batches(arrays, tmp_path):
    alone = ran(tmp_path / "alone", arrays, **STILL, train={"max_epochs": 4, "accumulate_batches": 2})
    assert_close(ran(tmp_path / "two", arrays, **STILL, train=TWO), alone)


@pytest.mark.slow
def test_two_processes_with_gathered_negatives_are_one_with_twice_the_batch(arrays, tmp_path):
    alone = ran(tmp_path / "alone", arrays, **STILL, train={"max_epochs": 4, "batch_size": 16})
    gathered = {"loss": {"gathered_negatives": True}, "train": TWO}
    assert_close(ran(tmp_path / "two", arrays, **STILL, **gathered), alone)


@pytest.mark.slow
def test_two_processes_that_stop_and_resume_end_bit_for_bit_where_undisturbed_ones_do(arrays, tmp_path):
    train = TWO | {"schedule": "cosine", "accumulate_batches": 2, "batch_size": 4}
    whole = ran(tmp_path / "whole", arrays, train=train)
    ran(tmp_path / "parts", arrays, 2, train=train)
    assert multiprocessing.active_children() == []
    assert not dist.is_initialized()
    torch.manual_seed(99)
    metrics, weights = ran(tmp_path / "parts", arrays, train=train)
    assert metrics == whole[0]
    assert all(torch.equal(weights[name], value) for name, value in whole[1].items())


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_both_processes(arrays):
    (shard,) = arrays.text.shards
    tokens = shard.tokens.copy()
    tokens[shard.offsets[arrays.split.item_rows[0]]] = np.nan  # one item: not every process meets it first
    broken = arrays._replace(text=RaggedFeatures.of(tokens, shard.offsets))
    with pytest.raises(NonFiniteError, match="the training loss is nan in epoch 1, before the step"):
        list(training_run(small_config(train=TWO), broken))


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_instead_of_leaving_it_to_wait(arrays):
    run = training_run(small_config(train=TWO), arrays)
    next(run)
    (other,) = multiprocessing.active_children()
    other.kill()
    other.join()
    with pytest.raises(RuntimeError, match=r"process 1 ended with exit code -9|(?i:connection|closed|reset|peer)"):
        list(run)


@pytest.mark.slow
def test_out_of_memory_in_another_process_is_out_of_memory_of_the_run(arrays, monkeypatch):
    monkeypatch.setattr(parallel, "_follow", greedy_follow)
    with pytest.raises(RuntimeError, match=r"process 1 ended with exit code 1: .*can't allocate memory") as told:
        list(training_run(small_config(train=TWO), arrays))
    assert is_out_of_memory(told.value)
    assert not is_fault_of_machine(told.value)


@pytest.mark.slow
def test_the_gradient_of_gathered_rows_comes_home(tmp_path):
    """Process p scores the gathered rows with weights of its own; the sum of both losses has the gradient w_0 + w_1."""
    script = tmp_path / "other.py"
    script.write_text(OTHER_PROCESS)
    other = subprocess.Popen([sys.executable, script, tmp_path / "meeting"])
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=2)
    try:
        rows = torch.arange(4.0).view(2, 2).requires_grad_()
        plain = torch.zeros(5, 2, requires_grad=True)
        weights = torch.arange(10.0).view(5, 2)
        beside = plain * 2  # before the gathering, so that its gradient is read after that of the gathered rows
        gathered = gather_rows(rows, (2, 3))
        ((gathered + beside) * weights).sum().backward()
    finally:
        dist.destroy_process_group()
    assert other.wait(60) == 0
    assert gathered.tolist() == [[0, 1], [2, 3], [10, 10], [10, 10], [10, 10]]
    assert rows.grad.tolist() == [[0 + 1, 1 + 1], [2 + 1, 3 + 1]]
    assert torch.equal(plain.grad, 2 * weights)  # what stands beside the gathered rows keeps its own gradient


OTHER_PROCESS = """
import sys
import torch
import torch.distributed as dist
from odmt.model.gathering import gather_rows

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=1, world_size=2)
rows = torch.full((3, 2), 10.0, requires_grad=True)
gather_rows(rows, (2, 3)).sum().backward()
assert rows.grad.tolist() == [[5, 6], [7, 8], [9, 10]], rows.grad
dist.destroy_process_group()
"""


@pytest.mark.parametrize("visible", [0, 1])
def test_fewer_gpus_than_processes_are_refused(arrays, monkeypatch, visible):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    entered = process_group(small_config(train=TWO), arrays, None, torch.device("cuda"))
    with pytest.raises(ConfigError, match=f"train.data_parallel: 2 processes need 2 GPUs, {visible} are visible"):
        entered.__enter__()


def test_a_run_of_one_process_starts_nothing(arrays):
    with process_group(small_config(), arrays, None, torch.device("cpu")) as (shard, device):
        assert shard == (0, 1)
        assert device == torch.device("cpu")
        assert not dist.is_initialized()
        assert multiprocessing.active_children() == []


@pytest.mark.parametrize("text", ["one shard", "three shards", "none"])
def test_other_processes_read_the_arrays_that_the_first_wrote(arrays, tmp_path, text):
    if text == "none":
        none = RaggedFeatures.of(np.empty((0, 6), dtype=np.float16), np.zeros(arrays.text.num_rows + 1, dtype=int))
        arrays = arrays._replace(text=none)
    if text == "three shards":  # row 3 is in none
        rows = [row for row in range(arrays.text.num_rows) if row != 3]
        arrays = arrays._replace(text=in_shards(arrays.text, [rows[10:], rows[:4], rows[4:10]]))
    parallel._write_arrays(tmp_path, arrays)
    found = parallel._read_arrays(tmp_path)
    assert found.split.max_seq_len == arrays.split.max_seq_len
    pairs = [(found.split, arrays.split)]
    for read, written in ((found.text, arrays.text), (found.image, arrays.image)):
        assert read.num_rows == written.num_rows
        pairs += zip(read.shards, written.shards, strict=True)
        assert not any(shard.tokens.flags.writeable for shard in read.shards)
    for read, written in pairs:
        for values, expected in zip(read, written, strict=True):
            np.testing.assert_array_equal(values, expected)
            assert np.asarray(values).dtype == np.asarray(expected).dtype


def test_the_state_to_start_from_is_a_copy_of_each_process_s_own(tmp_path):
    """An optimiser goes on in the tensors that it loads; shared memory would be stepped by every process."""
    saved = Checkpoint(3, {"w": torch.ones(2)}, {"optimizer": {"m": torch.ones(2)}}, [{"epoch": 3, "metrics": {}}])
    parallel._write_saved(tmp_path, saved)
    saved.state["optimizer"]["m"].add_(1)
    first, second = parallel._read_saved(tmp_path), parallel._read_saved(tmp_path)
    first.state["optimizer"]["m"].add_(5)
    assert second.state["optimizer"]["m"].tolist() == second.weights["w"].tolist() == [1, 1]
    assert (second.epoch, second.history) == (3, saved.history)


def test_without_a_checkpoint_there_is_no_state_to_start_from(tmp_path):
    assert parallel._read_saved(tmp_path) is None


def test_a_process_whose_parent_is_gone_ends(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    watcher = threading.Thread(target=parallel._die_with, args=(gone.pid,))
    watcher.start()
    assert ended.wait(5)
    watcher.join()


@pytest.mark.slow
def test_other_processes_die_with_a_killed_first_one(tmp_path):
    script = tmp_path / "first.py"
    script.write_text(FIRST_PROCESS)
    tests = os.path.dirname(sys.modules["small_arrays"].__file__)
    (tmp_path / "left").mkdir()  # what a killed process cannot remove
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path / "left")}
    first = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment, text=True)
    other = int(first.stdout.readline())
    first.kill()
    first.wait()
    first.stdout.close()
    deadline = time.monotonic() + 30
    while is_running(other) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(other)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


FIRST_PROCESS = """
import multiprocessing
import time
from small_arrays import small_arrays, small_config
from odmt.experiment.run import training_run

if __name__ == "__main__":
    run = training_run(small_config(train={"max_epochs": 4, "data_parallel": 2}), small_arrays())
    next(run)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


def test_more_processes_than_cpus_are_refused_before_any_starts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr("odmt.experiment.parallel._write_arrays", lambda *_: pytest.fail("something was started"))
    config = small_config(train={"data_parallel": 4})
    with pytest.raises(ConfigError, match="4 processes need as many CPUs, this machine gives 3"):
        next(training_run(config, small_arrays(), device="cpu"))


def test_the_arrays_stay_until_every_process_has_read_them(tmp_path):
    others = [SimpleNamespace(name=f"process {rank}", exitcode=None) for rank in (1, 2)]
    (tmp_path / f"{parallel._READ}1").touch()
    waiting = threading.Thread(target=parallel._wait_until_read, args=(tmp_path, others), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    (tmp_path / f"{parallel._READ}2").touch()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_process_that_dies_at_its_start_is_named(tmp_path):
    others = [SimpleNamespace(name="process 1", exitcode=3)]
    with pytest.raises(RuntimeError, match="process 1 ended with exit code 3 at its start") as told:
        parallel._wait_until_read(tmp_path, others)
    assert is_fault_of_machine(told.value)


def test_one_named_device_cannot_serve_several_processes(arrays):
    config = small_config(train=TWO)
    with pytest.raises(ConfigError, match=r"cuda:1 is one device, train\.data_parallel 2"):  # noqa: SIM117
        with process_group(config, arrays, None, torch.device("cuda:1")):
            pass
