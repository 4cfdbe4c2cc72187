"""What is judged before and beside the trials: sizes, room for checkpoints, hours, broken machines."""

import errno

import pytest
from fake_search import write_space

from odmt.errors import ServiceError
from odmt.experiment.shape import empty_model, id_width
from odmt.tuning import budget
from odmt.tuning.extremes import DataShape, FeatureShape, most_parameters
from odmt.tuning.failures import MachineFault, is_fault_of_machine, is_out_of_memory
from odmt.tuning.folding import apply
from odmt.tuning.room import room_sentences
from odmt.tuning.space import load_space
from odmt.tuning.state import Study

CONDITIONAL = """
fixed: {train: {max_epochs: 6}}
incumbent: {model.backbone: gru4rec}
axes:
  model.backbone: {type: choice, values: [gru4rec, sasrec]}
  sequence.num_heads: {type: choice, values: [1, 2], when: {model.backbone: sasrec}}
"""
PROPOSAL = {"values": {}, "config": {}, "distributions": {}, "system_attrs": {}, "draws": 1}


def around(error):
    outer = ValueError("around it")
    outer.__cause__ = error
    return outer


def test_the_model_with_most_parameters_is_found_where_the_incumbent_lacks_a_conditional_axis(tmp_path):
    space = load_space(write_space(tmp_path, CONDITIONAL))
    data = DataShape(20, lambda config: FeatureShape(5, 6), lambda config: FeatureShape(3, 7))
    sizes = {}
    for backbone, heads in [
        ("gru4rec", {}),
        ("sasrec", {"sequence.num_heads": 1}),
        ("sasrec", {"sequence.num_heads": 2}),
    ]:
        config = space.config_for({"model.backbone": backbone, **heads})
        model = empty_model(config, num_items=20, text_dim=6, image_dim=7, id_dim=id_width(config, 6, 7))
        sizes[backbone] = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert sizes["gru4rec"] < sizes["sasrec"] == most_parameters(space, data)


def test_checkpoints_that_interrupted_trials_hold_need_no_more_room(tmp_path):
    study = Study()
    apply(study, {"kind": "header", "trials": 3, "time": 0.0})
    for number in range(2):
        apply(study, {"kind": "proposed", "trial": f"t{number}", "number": number, "time": 0.0, **PROPOSAL})
    held = tmp_path / "trials" / "t0" / "e000001"
    held.mkdir(parents=True)
    (held / "state").write_bytes(bytes(2000))
    # two at once: 2 x 4 of 1000 bytes, 2000 of them there; all: 3 x 3 of 1000 bytes, 2000 of them there
    with pytest.raises(ServiceError, match="2 trials at once"):
        list(room_sentences(tmp_path, study, 1000, 2, free=5999))
    assert len(list(room_sentences(tmp_path, study, 1000, 2, free=6999))) == 1
    assert list(room_sentences(tmp_path, study, 1000, 2, free=7000)) == []


def test_the_time_between_a_kill_and_an_extension_costs_no_gpu_hours():
    study = Study()
    opened = {"pid": 1, "host": "h", "code": "c", "cpus": 1, "gpus": 1, "concurrent": 1}
    for record in (
        {"kind": "header", "trials": 4, "gpu_hours": 5.0, "time": 0.0},
        {"kind": "opened", "time": 0.0, **opened},
        {"kind": "proposed", "trial": "t0", "number": 0, "time": 0.0, **PROPOSAL},
        {"kind": "started", "trial": "t0", "attempt": 1, "time": 0.0},
        {"kind": "resumed", "trial": "t0", "attempt": 1, "from_epoch": 0, "redone": 0, "time": 600.0},
        {"kind": "extended", "trials": 8, "time": 90_000.0},  # a day later: the driver had been killed
    ):
        apply(study, record)
    assert budget.device_hours(study, 90_000.0) == pytest.approx(600 / 3600)
    assert budget.met(study, 90_000.0) is None
    assert budget.seconds_used(study, 90_000.0) == 600.0


def test_a_study_that_is_begun_otherwise_knows_nothing_of_before():
    study = Study()
    apply(study, {"kind": "header", "trials": 4, "time": 0.0})
    apply(study, {"kind": "tainted", "reason": "row 3", "time": 5.0})
    apply(study, {"kind": "header", "trials": 4, "time": 9.0})
    assert (study.tainted, study.seconds_used, study.records) == (None, 0.0, 3)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"),
        RuntimeError("data parallel: process 1 ended with exit code -9"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        MachineFault("a GPU was reserved for this trial, and torch sees none here"),
    ],
    ids=str,
)
def test_a_fault_of_the_machine_is_not_held_against_the_trial(error):
    assert is_fault_of_machine(error)
    assert is_fault_of_machine(around(error))


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x"), RuntimeError("shapes do not fit"), OSError(errno.ENOENT, "gone")], ids=str
)
def test_an_error_of_the_trial_itself_is(error):
    assert not is_fault_of_machine(error)


def test_memory_that_was_not_there_is_no_fault_of_the_machine_also_below_another_error():
    outer = around(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(outer)
    assert not is_fault_of_machine(outer)
