import json
import subprocess
import sys

import pytest
from tiny_models import IMAGE_SIZE, TEXT_FAMILIES, VISION_FAMILIES

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.errors import ConfigError, DataError
from odmt.features.encoder_shapes import encoder_shape
from odmt.features.encoders import load_encoder

BERT = {
    "model_type": "bert",
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
}
VIT = {key: BERT[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size")} | {"image_size": 224}
SWIN = {
    "model_type": "swin",
    "image_size": 224,
    "patch_size": 4,
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32],
    "window_size": 7,
    "mlp_ratio": 4.0,
}


def config_of(folder, family, **settings):
    model = str(folder / family)
    if family in TEXT_FAMILIES:
        return TextEncoderConfig(model=model, **{"layer": -1, "max_tokens": 12} | settings)
    return ImageEncoderConfig(model=model, **{"layer": -1, "image_size": IMAGE_SIZE} | settings)


def shape_of(folder, model, **settings):
    (folder / "config.json").write_text(json.dumps(model))
    kind = TextEncoderConfig if "vocab_size" in model else ImageEncoderConfig
    return encoder_shape(kind(model=str(folder), **settings), folder)


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *VISION_FAMILIES])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_shapes_are_those_of_the_loaded_encoder(tiny_models, family, layer):
    config = config_of(tiny_models, family, layer=layer)
    encoder = load_encoder(config, tiny_models)
    shape = encoder_shape(config, tiny_models)
    assert (shape.width, shape.max_tokens) == (encoder.width, encoder.max_tokens)
    parameters = sum(parameter.numel() for parameter in encoder._model.parameters())
    assert shape.parameters == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize(("ratio", "tokens"), [(0.0, 17), (0.75, 5), (0.3, 12), (0.9, 2)])
def test_a_masked_vit_mae_has_fewer_tokens(tiny_models, ratio, tokens):
    config = config_of(tiny_models, "vit_mae", mask_ratio=ratio)
    assert encoder_shape(config, tiny_models).max_tokens == load_encoder(config, tiny_models).max_tokens == tokens


@pytest.mark.parametrize(
    ("model", "width", "tokens", "parameters"),
    [
        (BERT, 768, 30, 109_482_240),
        (BERT | {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "pad_token_id": 1,
                 "type_vocab_size": 1}, 768, 30, 124_645_632),
        ({"model_type": "clip", "vision_config": VIT | {"model_type": "clip_vision_model", "patch_size": 32}},
         768, 50, 87_456_000),
        (VIT | {"model_type": "vit", "patch_size": 16}, 768, 197, 86_389_248),
        (VIT | {"model_type": "vit_mae", "patch_size": 16}, 768, 197, 85_798_656),
        (SWIN, 1024, 50, 86_743_224),
    ],
)  # fmt: skip
def test_published_models_have_their_published_sizes(tmp_path, model, width, tokens, parameters):
    shape = shape_of(tmp_path, model, layer=-1)
    assert (shape.width, shape.max_tokens) == (width, tokens)
    assert shape.parameters == pytest.approx(parameters, rel=0.001)


def test_operations_are_two_for_each_weight_and_token(tmp_path):
    blocks = 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert shape_of(tmp_path, BERT).flops_per_item == pytest.approx(2 * 30 * blocks, rel=0.01)
    patches = 49 * 3 * 32**2 * 768  # 196 of 16 pixels cost the same
    clip = VIT | {"model_type": "clip_vision_model", "patch_size": 32}
    assert shape_of(tmp_path, clip).flops_per_item == pytest.approx(2 * (50 * blocks + patches), rel=0.01)
    mae = shape_of(tmp_path, VIT | {"model_type": "vit_mae", "patch_size": 16}, mask_ratio=0.75)
    assert mae.max_tokens == 50
    assert mae.flops_per_item == pytest.approx(2 * (50 * blocks + patches), rel=0.01)
    # Liu et al., ICCV 2021, table 1: 15.4 G multiply-adds, attention scores included.
    assert shape_of(tmp_path, SWIN, layer=4).flops_per_item == pytest.approx(2 * 15.4e9, rel=0.05)


def test_a_hub_model_is_looked_up_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = TextEncoderConfig(model="some/model")
    assert encoder_shape(config, tmp_path) is None
    cached = tmp_path / "models--some--model"
    for commit, width in (("a" * 40, 768), ("b" * 40, 384)):
        (cached / "snapshots" / commit).mkdir(parents=True)
        (cached / "snapshots" / commit / "config.json").write_text(json.dumps(BERT | {"hidden_size": width}))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    assert encoder_shape(config, tmp_path).width == 768
    assert encoder_shape(TextEncoderConfig(model="some/model", revision="b" * 40), tmp_path).width == 384
    assert encoder_shape(TextEncoderConfig(model="some/model", revision="v2"), tmp_path) is None


def test_models_that_are_not_here_or_of_another_family_have_no_shape(tmp_path):
    assert encoder_shape(TextEncoderConfig(model="./encoders/none"), tmp_path) is None
    assert encoder_shape(ImageEncoderConfig(model=str(tmp_path / "none")), tmp_path) is None
    assert encoder_shape(TextEncoderConfig(model="no hub: has such a name"), tmp_path) is None
    assert shape_of(tmp_path, BERT | {"model_type": "t5"}) is None
    assert shape_of(tmp_path, VIT | {"model_type": "convnext"}) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "bert"}', '{"model_type": "bert", "hidden_size": "x"}'])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json: is no configuration of a model"):
        encoder_shape(TextEncoderConfig(model=str(tmp_path)), tmp_path)


def test_settings_that_do_not_fit_are_refused_as_loading_refuses_them(tiny_models):
    wrong = [("bert", {"layer": 3}), ("roberta", {"max_tokens": 21}), ("chinese", {"max_tokens": 21})]
    wrong += [("vit", {"image_size": 64}), ("swin", {"mask_ratio": 0.5}), ("swin", {"layer": 12})]
    for family, settings in wrong:
        config = config_of(tiny_models, family, **settings)
        sentences = []
        for ask in (encoder_shape, load_encoder):
            with pytest.raises(ConfigError, match=next(iter(settings))) as caught:
                ask(config, tiny_models)
            sentences.append(str(caught.value))
        assert sentences[0] == sentences[1]


def test_neither_torch_nor_transformers_is_imported(tmp_path):
    program = (
        "import sys; from pathlib import Path; from odmt.config import TextEncoderConfig;"
        "from odmt.features.encoder_shapes import encoder_shape;"
        f"assert encoder_shape(TextEncoderConfig(model='no/model'), Path({str(tmp_path)!r})) is None;"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    environment = {"HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['huggingface_hub']"
