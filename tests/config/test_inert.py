import pytest
import torch
from small_arrays import numbers, small_arrays, small_config

from odmt.config import RunConfig, dotted_values, effective_values, inert_paths, replace_values
from odmt.experiment.run import training_run


@pytest.mark.parametrize(
    ("values", "inert"),
    [
        ({}, {"sequence.kernel_size", "loss.num_negatives"}),
        (
            {"distill.weight": 0.0},
            {"distill.temperature", "distill.rampup_epochs", "distill.detach_teacher", "distill.objective"},
        ),
        ({"model.item_encoder": "late"}, {"fusion.num_layers", "fusion.num_heads", "fusion.dropout"}),
        ({"model.item_encoder": "early-sum"}, {"distill.weight", "fusion.id_masking", "fusion.num_heads"}),
        ({"model.item_encoder": "non-invasive"}, {"distill.weight", "fusion.id_masking"}),
        ({"model.backbone": "gru4rec"}, {"sequence.num_heads", "sequence.kernel_size"}),
        ({"model.backbone": "nextitnet"}, {"sequence.num_heads"}),
        ({"loss.kind": "full"}, {"loss.popularity_power", "loss.num_negatives"}),
        ({"loss.kind": "sampled"}, {"loss.popularity_power"}),
    ],
)
def test_settings_that_do_nothing_are_known(values, inert):
    assert inert <= set(inert_paths(replace_values(RunConfig(), values, "test")))


def test_what_does_something_is_kept():
    config = RunConfig()
    kept = effective_values(config)
    assert kept.keys() == dotted_values(config).keys() - {"sequence.kernel_size", "loss.num_negatives"}
    assert "fusion.num_layers" in effective_values(
        replace_values(config, {"model.item_encoder": "non-invasive"}, "test")
    )


OTHERS = {
    "distill.weight": 0.3,
    "distill.temperature": 0.9,
    "distill.rampup_epochs": 1.0,
    "distill.detach_teacher": True,
    "distill.objective": "kl",
    "fusion.num_layers": 2,
    "fusion.num_heads": 1,
    "fusion.dropout": 0.4,
    "fusion.id_masking": False,
    "sequence.num_heads": 1,
    "sequence.kernel_size": 5,
    "loss.num_negatives": 7,
    "loss.popularity_power": 0.5,
}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"distill.weight": 0.0},
        {"model.item_encoder": "late"},
        {"model.item_encoder": "early-concat"},
        {"model.item_encoder": "non-invasive"},
        {"model.item_encoder": "text"},
        {"model.backbone": "gru4rec"},
        {"model.backbone": "nextitnet"},
        {"loss.kind": "full"},
        {"loss.kind": "sampled"},
    ],
    ids=str,
)
def test_a_run_with_all_inert_settings_changed_is_bitwise_the_same_run(values):
    torch.set_num_threads(1)
    config = replace_values(small_config(train={"max_epochs": 2}), values, "test")
    changed = replace_values(config, {path: OTHERS[path] for path in inert_paths(config)}, "test")
    assert changed != config
    assert numbers(training_run(changed, small_arrays())) == numbers(training_run(config, small_arrays()))
