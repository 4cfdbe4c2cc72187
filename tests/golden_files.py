"""Reading the recorded numbers of the authors' code, and translating them to our names and layouts."""

import json
from pathlib import Path

import numpy as np
import torch

from odmt.data.split import DevelopmentSplit
from odmt.features.ragged import RaggedFeatures
from odmt.model.baselines import make_item_encoder
from odmt.model.items import ItemShape, ItemTokens
from odmt.model.recommender import SequentialRecommender
from odmt.model.sequence import make_backbone
from odmt.training.batches import TrainingBatches
from odmt.training.features import ItemFeatures

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
    ("id_user_encoder", "sequence_encoders.id"),
    ("t_user_encoder", "sequence_encoders.text"),
    ("v_user_encoder", "sequence_encoders.image"),
    ("text_proj.", "item_encoder.text_projection."),
    ("image_proj.", "item_encoder.image_projection."),
    ("id_proj.", "item_encoder.id_projection."),
    ("id_dnns", "item_encoder.heads.id"),
    ("t_dnns", "item_encoder.heads.text"),
    ("v_dnns", "item_encoder.heads.image"),
    ("IMT.", "item_encoder.fusion."),
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
        return "item_encoder.id_table.weight"
    for old, new in _RENAMED:
        theirs = theirs.replace(old, new)
    return theirs


def group(arrays, prefix, *, imt_prefix="IMT."):
    """Parameters under a prefix, with our names and stacked projections; the IMT's unused ones are left out."""
    unused = {imt_prefix + name for name in _UNUSED}
    found = {key[len(prefix) :]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith(prefix)}
    named = {our_name(key): value for key, value in found.items() if key not in unused}
    for name in [name for name in named if name.endswith("attention.query.weight")]:
        parts = [named.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        named[name.replace("query", "qkv")] = torch.cat(parts)
    return named


def make_model(meta, arrays, state):
    parameters = group(arrays, state)
    width, id_dim = parameters["item_encoder.id_projection.weight"].shape
    shape = ItemShape(
        num_items=arrays["t_feat"].shape[0] - 1,
        text_dim=arrays["t_feat"].shape[2],
        image_dim=arrays["v_feat"].shape[2],
        id_dim=id_dim,
        width=width,
        num_layers=meta["merged_att_layers"],
        num_heads=meta["merged_att_layers"],
        dropout=0.0,
    )
    items = make_item_encoder("imt", shape, id_masking=meta["version"] == "v1")
    sizes = {"width": width, "max_seq_len": meta["max_seq_len"], "num_layers": 2, "num_heads": 2}
    backbones = {name: make_backbone("sasrec", kernel_size=3, dropout=0.0, **sizes) for name in ("id", "text", "image")}
    model = SequentialRecommender(items, backbones)
    model.load_state_dict(parameters)
    return model


def tokens_of(arrays, item_ids):
    num_tokens = arrays["t_feat"].shape[1]
    image = torch.from_numpy(arrays["v_feat"][item_ids].astype(np.float32))
    return ItemTokens(
        text=torch.from_numpy(arrays["t_feat"][item_ids].astype(np.float32)),
        text_mask=torch.from_numpy(arrays["item_content"][item_ids][:, num_tokens:] != 0),
        image=image,
        image_mask=None,
    )


def features_of(arrays):
    """Ragged features of the items 1..n: the real tokens alone, as our stores hold them."""
    num_tokens = arrays["t_feat"].shape[1]
    real = arrays["item_content"][1:, num_tokens:] != 0
    text = RaggedFeatures.of(arrays["t_feat"][1:][real].astype(np.float16), np.cumsum([0, *real.sum(axis=1)]))
    images = arrays["v_feat"][1:].astype(np.float16)
    offsets = np.arange(len(images) + 1) * images.shape[1]
    rows = np.arange(len(images), dtype=np.int32)
    return ItemFeatures(
        rows, text, RaggedFeatures.of(images.reshape(-1, images.shape[2]), offsets), torch.device("cpu")
    )


def make_batch(arrays, slots_BS):
    """A batch of our trainer over the recorded slots and popularity; nothing of the authors' padding is left."""
    num_items = len(arrays["pop_prob_list"]) - 1
    split = DevelopmentSplit(
        np.arange(num_items, dtype=np.int32),
        np.array([0, 3]),
        np.array([1, 2, 3], dtype=np.int32),
        max_seq_len=slots_BS.shape[1] - 1,
    )
    batches = TrainingBatches(split, features_of(arrays), batch_size=1, seed=0)
    with np.errstate(divide="ignore"):
        batches.log_popularity = np.log(arrays["pop_prob_list"].astype(np.float32))
    return batches.batch([slots_BS.astype(np.int64)])
