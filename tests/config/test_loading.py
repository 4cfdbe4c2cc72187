import pytest

from odmt.config import RunConfig, dotted_values, from_mapping, read_yaml, replace_values, to_mapping
from odmt.config.loading import parse_assignments
from odmt.config.strict_yaml import parse_yaml
from odmt.errors import ConfigError


def problems_of(mapping):
    with pytest.raises(ConfigError) as caught:
        from_mapping(RunConfig, mapping, "x.yaml")
    return caught.value.problems


def test_every_problem_is_told_at_once_with_the_nearest_key():
    mapping = {"train": {"max_epoch": 3, "learning_rate": "fast"}, "fusion": {"dropout": 1.5}}
    assert problems_of(mapping) == [
        "train.max_epoch: unknown key; did you mean max_epochs?",
        "train.learning_rate: expected a number, got 'fast'",
        "fusion.dropout: 1.5 is not in [0, 1)",
    ]


def test_heads_must_divide_the_width():
    mapping = {"fusion": {"num_heads": 3}, "model": {"embedding_dim": 256}}
    assert problems_of(mapping) == ["fusion.num_heads: 3 does not divide model.embedding_dim 256"]


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"train": 3}, "train: expected a mapping, got 3"),
        ({"train": {"max_epochs": True}}, "train.max_epochs: expected a whole number, got True"),
        ({"train": {"max_epochs": 1.5}}, "train.max_epochs: expected a whole number, got 1.5"),
        ({"fusion": {"id_masking": 1}}, "fusion.id_masking: expected true or false, got 1"),
        (
            {"model": {"id_init": "zeros"}},
            "model.id_init: expected one of random, text, image, text+image, got 'zeros'",
        ),
        ({"data": {"dataset": "a/b"}}, "data.dataset: 'a/b' is not a folder name"),
        ({"data": {"min_seq_len": 3}}, "data.min_seq_len: 3 is below 4"),
        ({"distill": {"temperature": 0}}, "distill.temperature: 0.0 is not above 0"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: nan is not a finite number"),
        ({"train": {"batch_size": 0}}, "train.batch_size: 0 is below 1"),
        ({"features": {"text": {"max_tokens": 2}}}, "features.text.max_tokens: 2 is below 3"),
        ({"features": {"image": {"image_size": 0}}}, "features.image.image_size: 0 is below 1"),
        ({"sequence": {"num_layers": 0}}, "sequence.num_layers: 0 is below 1"),
        ({"loss": {"popularity_power": -1}}, "loss.popularity_power: -1.0 is below 0"),
        ({"checkpoint": {"every_epochs": 0}}, "checkpoint.every_epochs: 0 is below 1"),
        ({"model": {"id_dim": 0}}, "model.id_dim: 0 is below 1"),
    ],
)
def test_a_bad_value_gives_one_sentence(mapping, problem):
    assert problem in problems_of(mapping)


def test_a_section_survives_the_way_to_plain_values_and_back():
    config = from_mapping(RunConfig, {"train": {"seed": 7}, "model": {"id_dim": 16}}, "x")
    assert from_mapping(RunConfig, to_mapping(config), "x") == config


def test_dotted_paths_replace_values():
    config = replace_values(RunConfig(), {"train.seed": 5, "features.text.layer": 3}, "--set")
    assert (config.train.seed, config.features.text.layer) == (5, 3)
    assert dotted_values(config)["features.text.layer"] == 3


def test_a_misspelt_dotted_path_names_the_right_one():
    with pytest.raises(ConfigError, match=r"--set: train.learning_rat: unknown key; did you mean learning_rate\?"):
        replace_values(RunConfig(), {"train.learning_rat": 1.0}, "--set")


def test_scientific_notation_is_a_number():
    assert parse_yaml("{a: 1e-4, b: 3, c: -2.5E3, d: v1}", "x") == {"a": 1e-4, "b": 3, "c": -2500.0, "d": "v1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", r"x.yaml:2: key 'a' is repeated"),
        ("a: &b 1\nc: *b\n", r"x.yaml:2: aliases are not allowed"),
        ("a:\n\t- 1\n", r"x.yaml:2: "),
        ("1: 2\n", r"x.yaml:1: key 1 is not text"),
        ("- 1\n", r"x.yaml: expected a mapping at the top level, got \[1\]"),
        ("", r"x.yaml: expected a mapping at the top level, got nothing"),
        ("a: !!python/object:os.system {}\n", r"x.yaml:1: could not determine a constructor"),
    ],
)
def test_yaml_is_read_strictly(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x.yaml: cannot be read: is not UTF-8 text"):
        read_yaml(tmp_path / "x.yaml")


def test_assignments_are_yaml_values():
    assert parse_assignments(["a.b=1e-3", "c=text", "d=[1, 2]"]) == {"a.b": 1e-3, "c": "text", "d": [1, 2]}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [(["a"], "'a' is not key=value"), (["a=1", "a=2"], "a is given twice"), (["a=["], "--set a:1: ")],
)
def test_a_bad_assignment_gives_one_sentence(assignments, message):
    with pytest.raises(ConfigError, match=message):
        parse_assignments(assignments)


def test_a_batch_of_one_user_has_no_negatives_and_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch_size: 1 leaves a user without negatives"):
        from_mapping(RunConfig, {"train": {"batch_size": 1}}, "x")
    from_mapping(RunConfig, {"train": {"batch_size": 1}, "loss": {"kind": "full"}}, "x")


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("model", ["./encoders/own", "/models/own", "~/own"])
def test_a_revision_of_a_folder_is_refused(modality, model):
    given = {"model": model, "revision": "main"}
    with pytest.raises(ConfigError) as caught:
        from_mapping(RunConfig, {"features": {modality: given}}, "x")
    assert caught.value.problems == [
        f"features.{modality}.revision: 'main' belongs to a model of the hub, and {model!r} is a folder; leave it out"
    ]
    from_mapping(RunConfig, {"features": {modality: given | {"model": "some/hub-model"}}}, "x")


def test_heads_are_checked_where_there_is_attention_alone():
    odd = {"model": {"embedding_dim": 51, "item_encoder": "id", "backbone": "gru4rec"}}
    from_mapping(RunConfig, odd, "x")
    with pytest.raises(ConfigError, match=r"sequence\.num_heads: 2 does not divide model.embedding_dim 51"):
        from_mapping(RunConfig, {"model": odd["model"] | {"backbone": "sasrec"}}, "x")


def test_an_id_table_that_scores_must_be_as_wide_as_the_model():
    with pytest.raises(
        ConfigError, match=r"model\.id_dim: 32 is not model\.embedding_dim 64, as item_encoder id needs"
    ):
        from_mapping(RunConfig, {"model": {"item_encoder": "id", "id_dim": 32, "embedding_dim": 64}}, "x")
