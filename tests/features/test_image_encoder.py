import json
import shutil

import numpy as np
import pytest
from plain_vision import NEAR, encode, halved, load, model_of, pictures, plain_states
from tiny_models import IMAGE_SIZE, NUM_PATCHES, VISION_FAMILIES, WIDTH, save_randomised

from odmt.errors import ConfigError

STAGES = ((8, 64), (16, 16), (16, 16))  # width and tokens of the tiny Swin's hidden states


@pytest.mark.parametrize("family", VISION_FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_features_are_the_hidden_states_before_a_final_norm(tiny_models, family, layer):
    encoder = load(tiny_models, family, layer=layer)
    (picture,) = pictures(1)
    expected = plain_states(model_of(tiny_models, family), family, halved(picture))[layer]
    (found,) = encode(encoder, [picture])
    if family == "swin":
        found = found[1:]
    assert found.dtype == np.float16
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, **NEAR)


def test_a_folder_that_ties_its_last_state_to_the_final_norm_gives_the_state_before_it(tiny_models, tmp_path):
    shutil.copytree(tiny_models / "vit", tmp_path / "tied")
    settings = json.loads((tmp_path / "tied" / "config.json").read_text())
    (tmp_path / "tied" / "config.json").write_text(json.dumps(settings | {"tie_last_hidden_states": True}))
    (found,) = encode(load(tmp_path, "tied"), pictures(1))
    (expected,) = encode(load(tiny_models, "vit"), pictures(1))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_tokens_and_width_are_known_after_loading(tiny_models, family):
    for layer in (0, 1, 2):
        encoder = load(tiny_models, family, layer=layer)
        width, tokens = STAGES[layer] if family == "swin" else (WIDTH, NUM_PATCHES)
        assert (encoder.max_tokens, encoder.width) == (1 + tokens, width)
        assert encode(encoder, pictures(1))[0].shape == (1 + tokens, width)
        assert (encoder.image_size, encoder.commit) == (IMAGE_SIZE, None)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_summary_of_a_swin_is_the_mean_of_its_tokens(tiny_models, layer):
    (picture,) = pictures(1)
    tokens = plain_states(model_of(tiny_models, "swin"), "swin", halved(picture))[layer]
    (found,) = encode(load(tiny_models, "swin", layer=layer), [picture])
    np.testing.assert_allclose(found[0], sum(tokens) / len(tokens), **NEAR)


def test_whether_a_family_has_a_summary_token_is_found_by_running_it(tmp_path):
    import transformers as hf

    blocks = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    grid = {"image_size": IMAGE_SIZE, "patch_size": 8}
    words = {**blocks, "vocab_size": 9}
    save_randomised(
        hf.SiglipModel(hf.SiglipConfig(vision_config={**blocks, **grid}, text_config=words)), tmp_path / "s"
    )
    blocks.pop("intermediate_size")
    save_randomised(hf.Dinov2Model(hf.Dinov2Config(**blocks, **grid)), tmp_path / "d")
    (without,), (with_one,) = (encode(load(tmp_path, name), pictures(1)) for name in "sd")
    assert without.shape == with_one.shape == (1 + NUM_PATCHES, WIDTH)
    np.testing.assert_allclose(without[0], without[1:].astype(np.float32).mean(axis=0), **NEAR)
    assert np.abs(with_one[0] - with_one[1:].astype(np.float32).mean(axis=0)).max() > 0.1


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_a_picture_does_not_depend_on_what_it_is_batched_with(tiny_models, family):
    encoder = load(tiny_models, family)
    items = pictures(5)
    for picture, found in zip(items, encode(encoder, items), strict=True):
        np.testing.assert_allclose(found, encode(encoder, [picture])[0], **NEAR)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_the_same_batch_gives_the_same_bytes(tiny_models, family):
    encoder = load(tiny_models, family, mask_ratio=0.5 if family == "vit_mae" else 0.0)
    first, again = (b"".join(array.tobytes() for array in encode(encoder, pictures(3))) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("family", VISION_FAMILIES)
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.3), ("fp16", 0.05)])
def test_narrow_arithmetic_stays_near_float32(tiny_models, family, precision, tolerance):
    exact = np.stack(encode(load(tiny_models, family), pictures(3))).astype(np.float32)
    narrow = np.stack(encode(load(tiny_models, family, precision), pictures(3))).astype(np.float32)
    assert 0 < np.abs(narrow - exact).max() < tolerance


def test_what_float16_does_not_hold_becomes_infinite(tiny_models):
    encoder = load(tiny_models, "vit")
    bias = encoder._model.layers[-1].mlp.fc2.bias
    bias[0], bias[1] = 70000.0, -70000.0
    (found,) = encode(encoder, pictures(1))
    assert np.isposinf(found[:, 0]).all()
    assert np.isneginf(found[:, 1]).all()
    assert np.isfinite(found[:, 2:]).all()


def test_no_pictures_have_no_features(tiny_models):
    assert load(tiny_models, "vit").encode([], []) == []


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_layers_and_sizes_that_a_model_lacks_are_named(tiny_models, family):
    with pytest.raises(ConfigError, match=rf"features\.image: layer: 3, but \S+/{family} has 2 blocks"):
        load(tiny_models, family, layer=3)
    with pytest.raises(ConfigError, match=rf"features\.image: image_size: 64, but \S+/{family} takes 32"):
        load(tiny_models, family, image_size=64)


def test_a_model_of_oblong_pictures_is_refused(tmp_path):
    from transformers import ViTConfig, ViTModel

    blocks = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(**blocks, image_size=[32, 16], patch_size=8)).save_pretrained(str(tmp_path / "oblong"))
    ViTModel(ViTConfig(**blocks, image_size=[32, 32], patch_size=8)).save_pretrained(str(tmp_path / "square"))
    with pytest.raises(ConfigError, match=r"image_size: 32, but \S+/oblong takes 32 x 16"):
        load(tmp_path, "oblong")
    assert load(tmp_path, "square").max_tokens == 1 + NUM_PATCHES


def test_a_model_without_tokens_is_refused(tmp_path):
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=IMAGE_SIZE)
    ConvNextModel(config).save_pretrained(str(tmp_path / "maps"))
    with pytest.raises(ConfigError, match=r"model: \S+/maps gives no tokens but maps of shape \(16, 4, 4\)"):
        load(tmp_path, "maps")
