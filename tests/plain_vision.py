"""Plain references of the image encoders: the models' own embeddings and blocks, one after another."""

import numpy as np
import torch
from tiny_models import IMAGE_SIZE, NUM_PATCHES

from odmt.config import ImageEncoderConfig
from odmt.features.image_encoder import ImageEncoder
from odmt.features.images import digest_of

NEAR = {"rtol": 4e-3, "atol": 4e-3}  # a float16 step and a little; features here reach about 6


def load(folder, family, precision="fp32", **settings):
    settings = {"layer": -1, "image_size": IMAGE_SIZE} | settings
    return ImageEncoder(ImageEncoderConfig(model=str(folder / family), **settings), folder, precision=precision)


def pictures(count, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8))


def digests(items):
    return [digest_of(picture.tobytes()) for picture in items]


def encode(encoder, items):
    return encoder.encode(items, digests(items))


def halved(picture):
    """A picture by mean and deviation 0.5, float32 ``(3, S, S)``."""
    return (picture.astype(np.float32).transpose(2, 0, 1) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def model_of(folder, family):
    import transformers as hf

    kinds = {"vit": hf.ViTModel, "vit_mae": hf.ViTMAEModel, "swin": hf.SwinModel}
    return kinds.get(family, hf.CLIPVisionModel).from_pretrained(folder / family, local_files_only=True).eval()


def embedded_patches(model, batch, order):
    """A ViT-MAE's summary token and its patches in an order, written out."""
    patches = model.embeddings.patch_embeddings.projection(batch).flatten(2).transpose(1, 2)
    patches = patches + model.embeddings.position_embeddings[:, 1:]
    summary = model.embeddings.cls_token + model.embeddings.position_embeddings[:, :1]
    return torch.cat([summary, patches[:, order]], dim=1)


def plain_states(model, family, pixel_values, order=range(NUM_PATCHES)):
    """Every hidden state of one picture, float32: the model's own embeddings and blocks, one after another."""
    batch = torch.from_numpy(pixel_values)[None]
    with torch.no_grad():
        if family == "swin":
            state, grid = model.embeddings(batch)
            states, blocks = [state], model.encoder.layers
            for stage in blocks:
                states.append(stage(states[-1], grid)[0])
                grid = (grid[0] // 2, grid[1] // 2)
            return [state[0].numpy() for state in states]
        if family == "vit_mae":
            states, blocks = [embedded_patches(model, batch, list(order))], model.layers
        elif family == "vit":
            states, blocks = [model.embeddings(batch)], model.layers
        else:
            states, blocks = [model.pre_layrnorm(model.embeddings(batch))], model.encoder.layers
        for block in blocks:
            output = block(states[-1], attention_mask=None)
            states.append(output[0] if isinstance(output, tuple) else output)
    return [state[0].numpy() for state in states]


def pixels_seen(encoder, items):
    """What the model was called with."""
    calls = []
    hook = encoder._model.register_forward_pre_hook(
        lambda _, __, inputs: calls.append(inputs["pixel_values"].numpy()), with_kwargs=True
    )
    encode(encoder, items)
    hook.remove()
    (values,) = calls
    return values
