import pytest
from small_arrays import small_arrays, small_config

from odmt.config import dotted_values
from odmt.errors import ConfigError
from odmt.experiment.methods import METHODS, with_method
from odmt.experiment.run import training_run

THREE_BRANCHES = ("late", "odmt -imt", "odmt -kd", "odmt -mask", "odmt")
ONE_BRANCH = ("id", "text", "image", "early-sum", "early-concat", "non-invasive")


def one_epoch(config):
    (result,) = training_run(config, small_arrays(), device="cpu")
    return result.metrics


def full_method():
    return small_config(train={"max_epochs": 1})


def test_the_methods_are_the_eleven_of_the_paper_s_comparison():
    assert set(METHODS) == {*THREE_BRANCHES, *ONE_BRANCH}


@pytest.mark.parametrize("name", [*THREE_BRANCHES, *ONE_BRANCH])
def test_every_method_trains_an_epoch(name):
    metrics = one_epoch(with_method(full_method(), name))
    assert metrics["train/loss"] > 0
    assert 0 <= metrics["valid/ndcg_at_10"] <= 1


@pytest.mark.parametrize("name", [*THREE_BRANCHES, *ONE_BRANCH])
def test_a_method_differs_from_the_full_one_in_nothing_but_its_values(name):
    full, changed = dotted_values(full_method()), dotted_values(with_method(full_method(), name))
    assert changed == full | dict(METHODS[name])


@pytest.mark.parametrize("name", [*THREE_BRANCHES, *ONE_BRANCH])
def test_only_three_branches_are_measured_apart(name):
    metrics = one_epoch(with_method(full_method(), name))
    heads = {head for head in ("id", "text", "image") if f"valid/{head}/ndcg_at_10" in metrics}
    assert heads == ({"id", "text", "image"} if name in THREE_BRANCHES else set())


@pytest.mark.parametrize("name", [*THREE_BRANCHES, *ONE_BRANCH])
def test_distillation_takes_part_in_the_distilling_methods_only(name):
    distils = name in ("odmt", "odmt -imt", "odmt -mask")
    assert (one_epoch(with_method(full_method(), name))["train/kd"] > 0) is distils


def test_id_alone_starts_at_random_whatever_the_full_method_does():
    full = small_config(train={"max_epochs": 1}, model={"id_init": "text", "id_dim": 6})
    one_epoch(with_method(full, "id"))


def test_an_unknown_method_is_refused_and_the_nearest_named():
    with pytest.raises(ConfigError, match="odmt -msk: unknown key; did you mean odmt -mask"):
        with_method(full_method(), "odmt -msk")


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"model": {"item_encoder": "late"}}, "model.item_encoder"),
        ({"fusion": {"id_masking": False}}, "fusion.id_masking"),
        ({"distill": {"weight": 0.0}}, "distill.weight"),
    ],
)
def test_a_method_of_something_else_than_the_full_one_is_refused(sections, path):
    with pytest.raises(ConfigError, match=f"{path}: .* is not the full method's"):
        with_method(small_config(**sections), "late")
