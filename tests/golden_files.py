"""Reading the recorded numbers of the authors' code, and translating their parameter names to ours."""

import json
from pathlib import Path

import numpy as np
import torch

from odmt.model.odmt import Batch, ItemTokens, Odmt

GOLDEN = Path(__file__).parent / "golden"

_RENAMED = [
    ("multi_head_attention.w_Q", "attention.query"),
    ("multi_head_attention.w_K", "attention.key"),
    ("multi_head_attention.w_V", "attention.value"),
    ("multi_head_attention.fc", "attention.output"),
    ("multi_head_attention.layer_norm", "attention.layer_norm"),
    ("feed_forward.w_1", "feed_forward.expand"),
    ("feed_forward.w_2", "feed_forward.contract"),
    ("transformer_encoder.", ""),
    ("transformer_blocks", "blocks"),
    ("id_user_encoder", "id_encoder"),
    ("t_user_encoder", "text_encoder"),
    ("v_user_encoder", "image_encoder"),
    ("text_proj.", "text_projection."),
    ("image_proj.", "image_projection."),
    ("id_proj.", "id_projection."),
    ("id_dnns", "id_head"),
    ("t_dnns", "text_head"),
    ("v_dnns", "image_head"),
    ("IMT.", "fusion."),
]
_UNUSED = ("layer_norm.weight", "layer_norm.bias", "token_type_embeddings.weight")


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def names(pattern):
    return sorted(path.stem for path in GOLDEN.glob(pattern))


def our_name(theirs):
    if theirs == "id_encoder.weight":
        return "id_table.weight"
    for old, new in _RENAMED:
        theirs = theirs.replace(old, new)
    return theirs


def group(arrays, prefix, *, imt_prefix="IMT."):
    """Parameters under a prefix, with our names; the IMT's unused ones are left out."""
    unused = {imt_prefix + name for name in _UNUSED}
    found = {key[len(prefix) :]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith(prefix)}
    return {our_name(key): value for key, value in found.items() if key not in unused}


def make_model(meta, arrays, state):
    parameters = group(arrays, state)
    width, id_dim = parameters["id_projection.weight"].shape
    model = Odmt(
        num_items=arrays["t_feat"].shape[0] - 1,
        text_dim=arrays["t_feat"].shape[2],
        image_dim=arrays["v_feat"].shape[2],
        id_dim=id_dim,
        width=width,
        max_seq_len=meta["max_seq_len"],
        fusion_layers=meta["merged_att_layers"],
        fusion_heads=meta["merged_att_layers"],
        fusion_dropout=0.0,
        id_masking=meta["version"] == "v1",
        sequence_layers=2,
        sequence_heads=2,
        sequence_dropout=0.0,
    )
    model.load_state_dict(parameters)
    return model


def tokens_of(arrays, item_ids):
    num_tokens = arrays["t_feat"].shape[1]
    image = torch.from_numpy(arrays["v_feat"][item_ids].astype(np.float32))
    return ItemTokens(
        text=torch.from_numpy(arrays["t_feat"][item_ids].astype(np.float32)),
        text_mask=torch.from_numpy(arrays["item_content"][item_ids][:, num_tokens:] != 0),
        image=image,
        image_mask=torch.ones(image.shape[:2], dtype=torch.bool),
    )


def make_batch(arrays, slots_BS):
    slots = torch.from_numpy(slots_BS.astype(np.int64))
    item_ids = torch.unique(slots[slots != 0])
    probability = torch.from_numpy(arrays["pop_prob_list"].astype(np.float32))
    slot_item = (torch.searchsorted(item_ids, slots) + 1).where(slots != 0, 0)
    return Batch(slots, item_ids, slot_item, tokens_of(arrays, item_ids.numpy()), probability[slots].log())
