"""Encoders of full width with random weights: the time that they take does not depend on them."""

from pathlib import Path

from parts.pictures import WORDS


def save_image_encoder(folder: Path, layers: int) -> None:
    """Save a CLIP ViT-B/32 vision tower."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from odmt.features.loading import quiet_transformers

    with quiet_transformers():
        CLIPVisionModel(CLIPVisionConfig(num_hidden_layers=layers)).save_pretrained(str(folder))


def save_text_encoder(folder: Path, layers: int) -> None:
    """Save a BERT-base with a vocabulary of the made titles."""
    from transformers import BertConfig, BertModel, BertTokenizer

    from odmt.features.loading import quiet_transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    with quiet_transformers():
        BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(str(folder))
        BertModel(BertConfig(vocab_size=len(words), num_hidden_layers=layers)).save_pretrained(str(folder))
