"""A configuration's model without weights; imports neither data nor features, so that serving needs neither."""

from odmt.config import RunConfig
from odmt.model.odmt import Odmt


def empty_model(config: RunConfig, *, num_items: int, text_dim: int, image_dim: int, id_dim: int) -> Odmt:
    """Make a model of a configuration's shape; its weights are still to come.

    Args:
        config: the run.
        num_items: N, padding not counted.
        text_dim: width of the text features.
        image_dim: width of the image features.
        id_dim: width of the ID table.
    """
    return Odmt(
        num_items=num_items,
        text_dim=text_dim,
        image_dim=image_dim,
        id_dim=id_dim,
        width=config.model.embedding_dim,
        max_seq_len=config.data.max_seq_len,
        fusion_layers=config.fusion.num_layers,
        fusion_heads=config.fusion.num_heads,
        fusion_dropout=config.fusion.dropout,
        id_masking=config.fusion.id_masking,
        sequence_layers=config.sequence.num_layers,
        sequence_heads=config.sequence.num_heads,
        sequence_dropout=config.sequence.dropout,
    )
