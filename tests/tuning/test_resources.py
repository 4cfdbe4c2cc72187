import pytest
from fake_search import write_space

from odmt.cluster.nodes import Node
from odmt.errors import ConfigError, ServiceError
from odmt.tuning.resources import placement, resource_sentences, slots, trial_resources
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


def node(name="a", cpus=4.0, gpus=0.0, accelerators=()):
    return Node(name * 56, f"host/{name * 12}", "10.0.0.1", cpus, gpus, accelerators)


def test_a_space_that_asks_for_gpus_uses_the_cpu_where_there_is_none_and_says_so(tmp_path):
    asked = space(tmp_path, "resources.gpus_per_trial=1")
    assert trial_resources(asked, 4, 0) == (1.0, 0.0, 4)
    assert list(resource_sentences(asked, 0)) == ["no GPU here (resources.gpus_per_trial is 1): trials use the CPU"]
    assert list(resource_sentences(asked, 1)) == []
    assert list(resource_sentences(space(tmp_path), 0)) == []


def test_a_trial_lies_on_one_node(tmp_path):
    wide = space(tmp_path, "resources.cpus_per_trial=3")
    assert trial_resources(wide, 8, 0, [node("a"), node("b")])[2] == 2
    with pytest.raises(ServiceError, match="Ray has 4 and 0, its largest node 2 and 0"):
        trial_resources(wide, 4, 0, [node("a", cpus=2), node("b", cpus=2)])


def test_a_share_of_a_gpu_is_of_one_gpu(tmp_path):
    assert slots([node(cpus=16, gpus=2)], 1, 0.75) == 2
    assert slots([node(cpus=16, gpus=2)], 1, 0.1) == 16
    assert slots([node(cpus=64, gpus=2)], 1, 0.1) == 20


def test_hosts_put_aside_have_no_slots():
    nodes = [node("a"), node("b", cpus=2)]
    assert slots(nodes, 1, 0) == 6
    assert slots(nodes, 1, 0, aside={nodes[0].host: "it burns"}) == 2


def test_trials_go_to_nodes_with_the_wanted_accelerator_alone(tmp_path):
    asked = space(tmp_path, "resources.accelerator_type=A100")
    nodes = [node("a", 16, 4, ("T4",)), node("b", 16, 2, ("A100",))]
    assert trial_resources(asked, 32, 6, nodes) == (1.0, 1.0, 2)
    assert placement({}, 1, 1, "A100").bundles == [{"CPU": 1, "GPU": 1, "accelerator_type:A100": 0.001}]


def test_an_accelerator_that_is_not_there_is_refused_with_what_is(tmp_path):
    asked = space(tmp_path, "resources.accelerator_type=A100")
    with pytest.raises(ServiceError, match="accelerator_type: A100 is wanted, and Ray has T4; name what there is"):
        trial_resources(asked, 16, 4, [node("a", 16, 4, ("T4",))])
    with pytest.raises(ServiceError, match="accelerator_type: A100 is wanted, and Ray has no GPU;"):
        trial_resources(asked, 16, 0, [node()])


def test_a_trial_is_placed_on_no_node_that_it_is_to_avoid():
    assert placement({"avoid": ["n1", "n2"]}, 1, 0) == placement({"avoid": ["n1", "n2"]}, 1, 0)
    assert placement({"avoid": ["n1"]}, 1, 0) != placement({"avoid": []}, 1, 0)  # a worker there is not reused
