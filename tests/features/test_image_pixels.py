import io

import numpy as np
import pytest
from PIL import Image
from plain_vision import NEAR, encode, halved, load, pictures, pixels_seen
from tiny_models import IMAGE_SIZE, VISION_FAMILIES, save_tiny_model

from odmt.errors import ConfigError, DataError
from odmt.features.pictures import pixels


def test_pixels_are_normalised_as_torchvision_does(tiny_models):
    (picture,) = pictures(1)
    mean, deviation = np.float32([0.1, 0.2, 0.3]), np.float32([0.4, 0.5, 0.6])
    own = ((picture.astype(np.float32) / np.float32(255) - mean) / deviation).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels_seen(load(tiny_models, "vit"), [picture])[0], halved(picture))
    own_encoder = load(tiny_models, "vit", normalisation="processor")
    np.testing.assert_array_equal(pixels_seen(own_encoder, [picture])[0], own)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_the_processors_normalisation_is_that_of_the_models_folder(tiny_models, family):
    white = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 255, dtype=np.uint8)
    seen = pixels_seen(load(tiny_models, family, normalisation="processor"), [white])
    np.testing.assert_allclose(seen[0, :, 0, 0], [0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6], rtol=1e-6)


def test_float_pixels_are_taken_as_they_are_or_undone_first(tiny_models):
    floats = np.random.default_rng(1).uniform(-1, 1, (3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    np.testing.assert_array_equal(pixels_seen(load(tiny_models, "vit"), [floats])[0], floats)
    seen = pixels_seen(load(tiny_models, "vit", normalisation="processor"), [floats])[0]
    expected = ((floats + 1) / 2 - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / np.reshape([0.4, 0.5, 0.6], (3, 1, 1))
    np.testing.assert_allclose(seen, expected, atol=1e-6)


@pytest.mark.parametrize("normalisation", ["half", "processor"])
def test_both_kinds_of_pixels_may_lie_in_one_batch(tiny_models, normalisation):
    encoder = load(tiny_models, "clip_vision", normalisation=normalisation)
    coded = pictures(4)
    mixed = [coded[0], halved(coded[1]), halved(coded[2]), coded[3]]
    for found, expected in zip(encode(encoder, mixed), encode(encoder, coded), strict=True):
        np.testing.assert_allclose(found, expected, **NEAR)


def test_a_stored_picture_goes_through_squeezed_not_cropped(tiny_models):
    wide = Image.new("RGB", (300, 20), "red")
    wide.paste("blue", (150, 0, 300, 20))
    content = io.BytesIO()
    wide.save(content, "PNG")
    half = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    half[:, : IMAGE_SIZE // 2, 0] = half[:, IMAGE_SIZE // 2 :, 2] = 255
    seen = pixels_seen(load(tiny_models, "clip_vision"), [pixels(content.getvalue(), IMAGE_SIZE), half])
    away_from_the_edge = np.r_[0:14, 18:32]
    np.testing.assert_array_equal(seen[0][..., away_from_the_edge], seen[1][..., away_from_the_edge])


def test_a_normalisation_that_the_folder_does_not_hold_is_refused(tmp_path):
    folder = save_tiny_model("vit", tmp_path / "vit")
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor", "image_mean": [0]}')
    with pytest.raises(ConfigError, match=r"normalisation: the processor of \S+/vit names no mean and deviation"):
        load(tmp_path, "vit", normalisation="processor")
    (folder / "preprocessor_config.json").unlink()
    load(tmp_path, "vit")
    with pytest.raises(DataError, match=r"/vit: is not a usable Hugging Face folder"):
        load(tmp_path, "vit", normalisation="processor")
