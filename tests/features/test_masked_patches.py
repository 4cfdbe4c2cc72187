import hashlib

import numpy as np
import pytest
import torch
from plain_vision import NEAR, encode, halved, load, model_of, pictures, plain_states
from tiny_models import NUM_PATCHES, VISION_FAMILIES, WIDTH

from odmt.errors import ConfigError
from odmt.features.image_encoder import patch_places

ORDER = [13, 6, 10, 3, 1, 5, 9, 14, 12, 7, 15, 11, 0, 2, 4, 8]  # of 16 patches, drawn by b"picture"


def test_the_places_of_patches_are_those_of_the_digests_stream():
    stream = hashlib.shake_128(b"picture").digest(8 * NUM_PATCHES)
    keys = [int.from_bytes(stream[8 * patch : 8 * patch + 8], "little") for patch in range(NUM_PATCHES)]
    assert sorted(range(NUM_PATCHES), key=keys.__getitem__) == ORDER
    expected = np.empty(NUM_PATCHES)
    expected[ORDER] = range(NUM_PATCHES)
    np.testing.assert_array_equal(patch_places(b"picture", NUM_PATCHES), expected)


def test_every_patch_is_kept_about_as_often_as_any_other():
    first_quarter = sum(patch_places(n.to_bytes(2, "little"), NUM_PATCHES) < 4 for n in range(2000))
    assert np.abs(first_quarter - 500).max() < 80  # four standard deviations


def test_a_masked_vit_mae_sees_the_first_patches_in_the_digests_order(tiny_models):
    (picture,) = pictures(1)
    encoder = load(tiny_models, "vit_mae", mask_ratio=0.75)
    (found,) = encoder.encode([picture], [b"picture"])
    expected = plain_states(model_of(tiny_models, "vit_mae"), "vit_mae", halved(picture), ORDER[:4])[-1]
    assert found.shape == (1 + NUM_PATCHES // 4, WIDTH) == (encoder.max_tokens, encoder.width)
    np.testing.assert_allclose(found, expected, **NEAR)


def test_an_unmasked_vit_mae_gives_all_patches_in_order(tiny_models):
    (picture,) = pictures(1)
    model = model_of(tiny_models, "vit_mae")
    model.config.mask_ratio = 0.0
    with torch.no_grad():
        output = model(
            torch.from_numpy(halved(picture))[None],
            noise=torch.arange(float(NUM_PATCHES))[None],
            output_hidden_states=True,
        )
    (found,) = encode(load(tiny_models, "vit_mae"), [picture])
    np.testing.assert_allclose(found, output.hidden_states[-1][0], **NEAR)


def test_the_patches_that_are_left_out_depend_on_the_picture_alone(tiny_models):
    encoder = load(tiny_models, "vit_mae", mask_ratio=0.75)
    items = pictures(6)
    in_order = encode(encoder, items)
    turned = encode(encoder, items[::-1])[::-1]
    parts = encode(encoder, items[:1]) + encode(encoder, items[1:4]) + encode(encoder, items[4:])
    for found, other, part in zip(in_order, turned, parts, strict=True):
        np.testing.assert_allclose(found, other, **NEAR)
        np.testing.assert_allclose(found, part, **NEAR)
    other_patches = encoder.encode(items[:1], [b"another"])[0]
    assert np.abs(other_patches.astype(np.float32) - in_order[0]).max() > 0.1


@pytest.mark.parametrize("family", [family for family in VISION_FAMILIES if family != "vit_mae"])
def test_only_a_vit_mae_leaves_patches_out(tiny_models, family):
    with pytest.raises(ConfigError, match=rf"features\.image: mask_ratio: 0\.75, but \S+/{family} is no ViT-MAE"):
        load(tiny_models, family, mask_ratio=0.75)
