"""A configuration's model without weights; imports neither data nor features, so that serving needs neither."""

from odmt.config import RunConfig
from odmt.model.baselines import make_item_encoder
from odmt.model.items import ItemShape
from odmt.model.recommender import SequentialRecommender
from odmt.model.sequence import make_backbone


def empty_model(
    config: RunConfig, *, num_items: int, text_dim: int, image_dim: int, id_dim: int
) -> SequentialRecommender:
    """Make a model of a configuration's shape; its weights are still to come.

    Args:
        config: the run.
        num_items: N, padding not counted.
        text_dim: width of the text features.
        image_dim: width of the image features.
        id_dim: width of the ID table.

    Raises:
        ValueError: the widths do not fit the item encoder.
    """
    width = config.model.embedding_dim
    fusion, sequence = config.fusion, config.sequence
    shape = ItemShape(
        num_items, text_dim, image_dim, id_dim, width, fusion.num_layers, fusion.num_heads, fusion.dropout
    )
    items = make_item_encoder(config.model.item_encoder, shape, id_masking=fusion.id_masking)
    backbones = {
        name: make_backbone(
            config.model.backbone,
            width=width,
            max_seq_len=config.data.max_seq_len,
            num_layers=sequence.num_layers,
            num_heads=sequence.num_heads,
            kernel_size=sequence.kernel_size,
            dropout=sequence.dropout,
        )
        for name in items.branches
    }
    return SequentialRecommender(items, backbones, recompute_items=config.train.recompute_items)


def id_width(config: RunConfig, text_dim: int, image_dim: int) -> int:
    """Return the width of the ID table: what is set, else that of the features it starts from, else the model's."""
    start = config.model.id_init
    feature_width = image_dim if start == "image" else text_dim
    return config.model.id_dim or (config.model.embedding_dim if start == "random" else feature_width)
