import pytest
import torch
from small_arrays import small_arrays, small_config

from odmt.errors import NonFiniteError
from odmt.tuning import probe
from odmt.tuning.plan import Pace
from odmt.tuning.probe import Probe, measure, pace_of

VALUES = {"train.batch_size": 8}


def measured(**named):
    return measure(small_config(), small_arrays(), VALUES, device="cpu", **named)


def test_an_epoch_is_its_steps_and_one_validation():
    found = measured(steps=2)
    assert found.problem is None
    assert (found.steps, found.device, found.values) == (4, "cpu", VALUES)  # 30 users in batches of 8
    assert found.step_seconds > 0
    assert found.train_seconds == found.step_seconds * 4
    assert found.epoch_seconds == found.train_seconds + found.validation_seconds
    assert found.validation_seconds > 0


def test_the_first_step_is_not_counted(monkeypatch):
    seconds = iter([0.0, 0.0, 100.0, 101.0, 102.0, 104.0])  # begun; start, (first step) start, end; start, end

    class Steps:
        def __init__(self):
            self.taken = 0

        def __call__(self, group, epoch, number):
            self.taken += 1

    class Batches:
        def __call__(self, epoch):
            return iter([["a"], ["b"]])

        def __len__(self):
            return 2

    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(seconds))
    run = probe.Run(Steps(), None, Batches())
    # begun 0; step 0 starts at 0; step 1 from 100 to 101, and the time is asked once more (102); no step starts at 104
    assert probe._step_seconds(run, torch.device("cpu"), 5) == 1.0
    assert run.step.taken == 2


def test_every_item_encoder_and_backbone_can_be_timed():
    for model in ({"item_encoder": "late"}, {"backbone": "gru4rec"}, {"backbone": "nextitnet"}):
        config = small_config(model=model, distill={"weight": 0.0})
        found = measure(config, small_arrays(), VALUES, device="cpu", steps=1)
        assert found.problem is None
        assert found.epoch_seconds > 0


def test_negatives_of_other_processes_are_left_out():
    config = small_config(train={"data_parallel": 2}, loss={"gathered_negatives": True})
    found = measure(config, small_arrays(), VALUES, device="cpu", steps=1)
    assert found.problem is None
    assert found.steps == 2


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            "out of memory: CUDA out of memory",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory: [enforce"),
        (MemoryError("too large"), "out of memory: too large"),
        (NonFiniteError("the training loss is nan"), "the training loss is nan"),
    ],
)
def test_what_cannot_be_timed_says_why_and_leaves_nothing(monkeypatch, error, problem):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(probe, "build_run", refuse)
    threads = torch.get_num_threads()
    found = measured(threads=threads + 1)
    assert found.problem.startswith(problem)
    assert "\n" not in found.problem
    assert found.epoch_seconds == 0
    assert torch.get_num_threads() == threads


def test_other_errors_are_not_hidden(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr(probe, "build_run", refuse)
    with pytest.raises(RuntimeError, match="a defect"):
        measured()


def test_memory_that_was_used_is_seen_at_its_peak(monkeypatch):
    block = 200 * 2**20

    def large(*arguments):
        torch.ones(block // 4)  # given back at once
        return {}

    monkeypatch.setattr(probe, "_timed", large)
    found = measured()
    assert block * 0.9 < found.peak_bytes < block * 1.5


def test_the_pace_is_halfway_between_both_or_that_of_the_one_that_ran():
    small = Probe({}, "cpu", train_seconds=1.0, validation_seconds=1.0)
    large = Probe({}, "cpu", train_seconds=5.0, validation_seconds=1.0)
    failed = Probe({}, "cpu", problem="out of memory")
    words = "measured now on cpu, halfway between the smallest and the largest"
    assert pace_of(small, large) == Pace(4.0, words, 2.0, 6.0)
    assert pace_of(small, failed) == Pace(2.0, "measured now on cpu, of the one that could be timed", 2.0, 2.0)
    assert pace_of(failed, failed) is None
