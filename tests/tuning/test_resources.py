import pytest
from fake_search import write_space

from odmt.errors import ConfigError, ServiceError
from odmt.tuning.resources import trial_resources
from odmt.tuning.space import load_space


def space(tmp_path, *assignments):
    text = (
        "incumbent: {train.learning_rate: 1e-3}\naxes: {train.learning_rate: {type: loguniform, low: 1e-4, high: 1e-2}}"
    )
    return load_space(write_space(tmp_path, text), ["scheduler.name=none", *assignments])


def test_a_cpu_only_machine_is_used_without_a_flag(tmp_path):
    assert trial_resources(space(tmp_path), 4, 0) == (1.0, 0.0, 4)


def test_a_trial_takes_one_gpu_where_there_is_any(tmp_path):
    assert trial_resources(space(tmp_path), 16, 4) == (1.0, 1.0, 4)


def test_a_trial_of_several_processes_takes_a_gpu_each(tmp_path):
    assert trial_resources(space(tmp_path, "train.data_parallel=2"), 16, 4) == (1.0, 2.0, 2)


def test_fractions_pack_trials_and_the_limit_holds(tmp_path):
    assert trial_resources(space(tmp_path, "resources.gpus_per_trial=0.5"), 16, 2)[2] == 4
    limited = space(tmp_path, "resources.gpus_per_trial=0.5", "resources.max_concurrent_trials=3")
    assert trial_resources(limited, 16, 2)[2] == 3


def test_gpus_that_are_not_one_a_process_are_refused(tmp_path):
    wanted = space(tmp_path, "train.data_parallel=2", "resources.gpus_per_trial=1")
    with pytest.raises(ConfigError, match=r"gpus_per_trial: 1, but train\.data_parallel 2 takes a GPU a process"):
        trial_resources(wanted, 16, 4)


def test_a_trial_that_fits_nowhere_is_refused_with_the_numbers(tmp_path):
    with pytest.raises(ServiceError, match="a trial wants 8 CPUs and 0 GPUs, Ray has 2 and 0"):
        trial_resources(space(tmp_path, "resources.cpus_per_trial=8"), 2, 0)
