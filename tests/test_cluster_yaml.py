"""cluster.yaml is what Ray's own loader accepts; nothing here reaches a cloud."""

from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def prepared():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CHECKOUT / "cluster.yaml").read_text(encoding="utf-8")))
    validate_config(config)
    return config


def test_ray_takes_the_file(prepared):
    assert prepared["provider"]["type"] == "aws"
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_ray_refuses_a_misspelt_field(prepared):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError, match="idle_timeout_minute"):
        validate_config(prepared | {"idle_timeout_minute": 10})


def test_gpu_workers_start_at_none_and_the_head_takes_no_trial(prepared):
    worker = prepared["available_node_types"]["gpu_worker"]
    assert (worker["min_workers"], worker["max_workers"]) == (0, prepared["max_workers"])
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_every_node_installs_the_pinned_project(prepared):
    for commands in ("head_setup_commands", "worker_setup_commands"):
        assert any("constraints.txt" in command and "-e ~/odmt" in command for command in prepared[commands])


def test_every_field_is_explained():
    text = (CHECKOUT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert "validated offline only; not run on AWS" in text
    fields = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text(encoding="utf-8"))
    missing = [name for name in (*fields, *fields["provider"], *fields["auth"]) if f"`{name}`" not in text]
    nodes = fields["available_node_types"].values()
    missing += [name for node in nodes for name in (*node, *node["node_config"]) if f"`{name}`" not in text]
    assert missing == []
