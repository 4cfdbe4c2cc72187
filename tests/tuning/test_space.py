import subprocess
import sys

import pytest
from fake_search import write_space

from odmt.errors import ConfigError
from odmt.tuning.space import load_space

BASE = """
fixed: {model: {embedding_dim: 64}, train: {max_epochs: 9}}
incumbent: {train.learning_rate: 1e-3, fusion.num_heads: 2, distill.weight: 1.0, distill.temperature: 0.5}
axes:
  train.learning_rate: {type: loguniform, low: 1e-4, high: 1e-2}
  distill.temperature: {type: uniform, low: 0.1, high: 1, when: {distill.weight: [0.5, 1.0]}}
  distill.weight: {type: choice, values: [0.0, 0.5, 1.0]}
  fusion.num_heads: {type: choice, values: [1, 2, 4]}
"""
ENCODERS = """
incumbent: {features.text.model: ./a, data.max_seq_len: 4}
axes:
  features.text.model: {type: choice, values: [./a, ./b]}
  data.max_seq_len: {type: choice, values: [4, 8]}
scheduler: {name: none}
"""
DEPTHS = """
fixed: {features: {text: {layer: 2}}}
incumbent: {features.text.model: ./deep, features.text.layer: 12}
axes:
  features.text.model: {type: choice, values: [./deep, ./flat]}
  features.text.layer: {type: choice, values: [4, 8, 12], when: {features.text.model: ./deep}}
  features.text.max_tokens: {type: choice, values: [9, 30], when: {features.text.layer: 12}}
scheduler: {name: none}
"""


def refused(tmp_path, text, assignments=()):
    with pytest.raises(ConfigError) as caught:
        load_space(write_space(tmp_path, text), assignments)
    return caught.value.problems


def test_a_space_gives_configurations(tmp_path):
    space = load_space(write_space(tmp_path, BASE))
    assert space.name == "small"
    assert list(space.axes) == ["train.learning_rate", "distill.weight", "distill.temperature", "fusion.num_heads"]
    config = space.incumbent_config()
    assert (config.train.learning_rate, config.model.embedding_dim, config.fusion.num_heads) == (1e-3, 64, 2)
    assert (space.sampler.name, space.scheduler.name, space.budget.trials) == ("tpe", "asha", 16)


def test_a_conditional_axis_exists_only_where_its_condition_holds(tmp_path):
    space = load_space(write_space(tmp_path, BASE))
    values = {"train.learning_rate": 1e-3, "fusion.num_heads": 2, "distill.weight": 0.0, "distill.temperature": 0.9}
    assert "distill.temperature" not in space.active_axes(values)
    assert space.config_for(values).distill.temperature == 0.3  # the default, while the axis does not exist
    assert space.canonical(values) == space.canonical(values | {"distill.temperature": 0.2})
    assert space.canonical(values) != space.canonical(values | {"distill.weight": 0.5})


def test_set_replaces_fixed_values_drops_axes_and_reaches_the_study_sections(tmp_path):
    sets = ["train.max_epochs=5", "distill.weight=0.5", "budget.trials=4", "sampler.seed=9", "scheduler.grace_period=2"]
    space = load_space(write_space(tmp_path, BASE), [*sets, "resources.gpus_per_trial=auto"])
    assert (space.base.train.max_epochs, space.base.distill.weight) == (5, 0.5)
    assert list(space.axes) == ["train.learning_rate", "distill.temperature", "fusion.num_heads"]
    assert (space.budget.trials, space.sampler.seed, space.scheduler.grace_period) == (4, 9, 2)
    assert space.resources.gpus_per_trial is None
    assert "distill.temperature" in space.active_axes(space.incumbent)
    without = load_space(write_space(tmp_path, BASE), ["distill.weight=0.0"])
    assert "distill.temperature" not in without.active_axes(without.incumbent)


def test_the_digest_knows_what_matters(tmp_path):
    path = write_space(tmp_path, BASE)
    digest = load_space(path).digest
    assert load_space(path, ["budget.trials=3", "resources.max_concurrent_trials=1"]).digest == digest
    assert load_space(write_space(tmp_path, f"description: words\n{BASE}")).digest == digest
    for change in ("train.max_epochs=8", "sampler.seed=2", "train.learning_rate=1e-3"):
        assert load_space(path, [change]).digest != digest


def test_everything_that_trials_can_load_is_known(tmp_path):
    space = load_space(write_space(tmp_path, ENCODERS))
    text, image = space.encoders()
    assert [encoder.model for encoder in text] == ["./a", "./b"]
    assert len(image) == 1
    assert [data.max_seq_len for data in space.data_configs()] == [4, 8]
    assert len(list(space.loaded_configs())) == 4


def text_encoders(space):
    return [(encoder.model, encoder.layer, encoder.max_tokens) for encoder in space.encoders()[0]]


def test_layers_of_a_deep_encoder_are_never_asked_of_a_flat_one(tmp_path):
    text = DEPTHS.replace("incumbent: {", "incumbent: {features.text.max_tokens: 9, ")
    assert text_encoders(load_space(write_space(tmp_path, text))) == [
        ("./deep", 4, 30), ("./deep", 8, 30), ("./deep", 12, 9), ("./deep", 12, 30), ("./flat", 2, 30)
    ]  # fmt: skip


def test_what_is_loaded_by_a_condition_on_another_axis_is_loaded_with_both_outcomes(tmp_path):
    text = """
incumbent: {fusion.dropout: 0.5, features.text.layer: 4}
axes:
  fusion.dropout: {type: uniform, low: 0, high: 0.5}
  features.text.layer: {type: choice, values: [4, 8], when: {fusion.dropout: [0, 0.5]}}
scheduler: {name: none}
"""
    space = load_space(write_space(tmp_path, text))
    assert [config.features.text.layer for config in space.loaded_configs()] == [4, 8, 12]
    assert {config.fusion.dropout for config in space.loaded_configs()} == {0.5}


@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        ("train.learning_rat: {type: uniform, low: 0, high: 1}", "axes.train.learning_rat: unknown key; did you mean"),
        ("distill.weight: {type: unifrom, low: 0, high: 1}", "axes.distill.weight.type: expected one of uniform, log"),
        ("distill.weight: {typ: uniform}", "axes.distill.weight.typ: unknown key; did you mean type?"),
        ("distill.weight: {type: uniform, low: 2, high: 1}", "axes.distill.weight: low 2 is not below high 1"),
        ("distill.weight: {type: uniform, low: 2}", "axes.distill.weight.high: expected a finite number, got nothing"),
        ("distill.weight: {type: uniform, low: .nan, high: 1}", "axes.distill.weight.low: expected a finite number"),
        ("distill.weight: {type: loguniform, low: 0, high: 1}", "axes.distill.weight.low: 0 is not above 0, which"),
        ("distill.weight: {type: quniform, low: 0, high: 1, q: 0.3}", "axes.distill.weight: steps of q 0.3 from low 0"),
        ("distill.weight: {type: uniform, low: 0, high: 1, q: 0.5}", "axes.distill.weight.q: uniform has no q"),
        ("distill.weight: {type: choice, values: []}", "axes.distill.weight.values: expected a list with at least one"),
        ("distill.weight: {type: choice, values: [1, 1.0]}", "axes.distill.weight.values: 1.0 is repeated"),
        ("distill.weight: {type: choice, low: 1, values: [1]}", "axes.distill.weight.low: choice has no low"),
        ("distill.weight: {type: choice, values: [1, high]}", "axes.distill.weight: expected a number, got 'high'"),
        ("fusion.num_layers: {type: uniform, low: 1, high: 2}", "axes.fusion.num_layers: expected a whole number, got"),
        ("fusion.num_layers: {type: int, low: 0, high: 2}", "fusion.num_layers: 0 is below 1 (at fusion.num_layers=0)"),
        ("fusion.num_layers: {type: int, low: 1.5, high: 2}", "axes.fusion.num_layers.low: expected a whole number"),
        (
            "fusion.dropout: {type: uniform, low: 0, high: 1}",
            "fusion.dropout: 1.0 is not in [0, 1) (at fusion.dropout=",
        ),
        ("data.max_seq_len: {type: int, low: 4, high: 8}", "axes.data.max_seq_len: only choice is possible here"),
        ("train.max_epochs: {type: int, low: 4, high: 8}", "axes.train.max_epochs: cannot be searched"),
        ("train.data_parallel: {type: int, low: 1, high: 2}", "axes.train.data_parallel: cannot be searched"),
        ("train.batch_size: {type: int, low: 4, high: 8}", "train.batch_size: is both fixed and an axis"),
        ("distill.weight: 3", "axes.distill.weight: expected a mapping such as"),
        (
            "distill.weight: {type: uniform, low: 0, high: 1, when: {distill.wait: 1}}",
            "axes.distill.weight.when.distill.wait: unknown key",
        ),
        (
            "distill.weight: {type: uniform, low: 0, high: 1, when: {fusion.id_masking: false}}",
            "axes.distill.weight.when: is never true",
        ),
    ],
)
def test_a_wrong_axis_gives_one_clear_sentence(tmp_path, axis, sentence):
    path = axis.split(":")[0]
    value = {"fusion.num_layers": 2, "fusion.dropout": 0.5, "distill.weight": 1}.get(path)
    incumbent = f"incumbent: {{{path}: {value}}}" if value is not None else ""
    text = f"fixed: {{train: {{batch_size: 8}}}}\n{incumbent}\naxes:\n  {axis}\n"
    problems = refused(tmp_path, text)
    assert any(problem.startswith(sentence) for problem in problems), problems


def test_values_that_only_together_are_impossible_are_named(tmp_path):
    text = BASE.replace("[1, 2, 4]", "[1, 2, 3]")
    assert refused(tmp_path, text) == [
        "fusion.num_heads: 3 does not divide model.embedding_dim 64 (at fusion.num_heads=3)"
    ]
    both = text.replace("model: {embedding_dim: 64}, ", "").replace(
        "axes:", "axes:\n  model.embedding_dim: {type: choice, values: [6, 8]}"
    )
    both = both.replace("incumbent: {", "incumbent: {model.embedding_dim: 6, ")
    assert refused(tmp_path, both) == [
        "fusion.num_heads: 3 does not divide model.embedding_dim 8 (at model.embedding_dim=8, fusion.num_heads=3)"
    ]


def test_conditions_in_a_circle_are_refused(tmp_path):
    text = """
axes:
  fusion.num_layers: {type: int, low: 1, high: 2, when: {fusion.num_heads: 1}}
  fusion.num_heads: {type: int, low: 1, high: 2, when: {fusion.num_layers: 1}}
"""
    words = "axes: the conditions of fusion.num_layers, fusion.num_heads depend on each other"
    assert words in refused(tmp_path, text)


def test_the_incumbent_must_be_a_possible_trial(tmp_path):
    outside = BASE.replace("train.learning_rate: 1e-3", "train.learning_rate: 1").replace(
        "num_heads: 2", "num_heads: 3", 1
    )
    assert refused(tmp_path, outside) == [
        "incumbent.train.learning_rate: 1 is not in 0.0001 to 0.01",
        "incumbent.fusion.num_heads: 3 is not one of 1, 2, 4",
    ]
    missing = BASE.replace("train.learning_rate: 1e-3, ", "")
    assert refused(tmp_path, missing) == ["incumbent.train.learning_rate: no value; the first trial needs one"]
    pointless = BASE.replace("distill.weight: 1.0,", "distill.weight: 0.0,")
    assert refused(tmp_path, pointless) == [
        "incumbent.distill.temperature: this axis does not exist at the incumbent's other values"
    ]
    stray = BASE.replace("incumbent: {", "incumbent: {train.seed: 3, train.sead: 3, ")
    assert refused(tmp_path, stray)[0] == "incumbent.train.seed: is no axis"


def test_every_problem_is_told_at_once(tmp_path):
    text = "fixt: {}\nfixed: {train: {max_epoch: 3}, model: 7}\naxes: []\nsampler: {seeed: 1}\nbudget: {trials: 0}\n"
    problems = refused(tmp_path, text, ["budget.trial=3", "foo=1"])
    assert problems == [
        "fixt: unknown key; did you mean fixed?",
        "axes: expected a mapping, got []",
        "--set budget.trial: unknown key; did you mean trials?",
        "--set foo: unknown key",
        "sampler.seeed: unknown key; did you mean seed?",
        "budget.trials: 0 is below 1",
        "train.max_epoch: unknown key; did you mean max_epochs?",
        "model: expected a mapping, got 7",
    ]


def test_a_scheduler_that_could_stop_nothing_is_refused(tmp_path):
    assert (
        "grace_period: 9 is not below train.max_epochs 9" in refused(tmp_path, BASE + "scheduler: {grace_period: 9}")[0]
    )


def test_a_grid_needs_a_list_on_a_range_of_real_numbers(tmp_path):
    problems = refused(tmp_path, BASE + "sampler: {name: grid}")
    assert problems[0] == "axes.train.learning_rate: sampler grid needs a list grid: [...] on a loguniform axis"
    listed = BASE.replace("high: 1e-2}", "high: 1e-2, grid: [1e-4, 1e-3]}").replace("high: 1,", "high: 1, grid: [0.5],")
    assert load_space(write_space(tmp_path, listed + "sampler: {name: grid}")).sampler.name == "grid"
    outside = listed.replace("grid: [1e-4", "grid: [1e-5")
    assert refused(tmp_path, outside) == ["axes.train.learning_rate.grid: 1e-05 is not in 0.0001 to 0.01"]


def test_an_unknown_space_lists_the_shipped_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"no space 'art'; shipped spaces: .*arts, demo"):
        load_space("art")
    with pytest.raises(ConfigError, match=r"there is no file .*gone\.yaml"):
        load_space(str(tmp_path / "gone.yaml"))


def test_loading_a_space_imports_nothing_heavy():
    code = (
        "import sys, odmt.tuning.space as s, odmt.tuning.study; s.load_space('demo');"
        "print([m for m in ('torch', 'ray', 'optuna', 'mlflow', 'numpy') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
