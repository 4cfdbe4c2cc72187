"""One tiny model of each family that the encoders promise, saved as an ordinary Hugging Face folder.

All parameters are random, LayerNorms and summary tokens included, so that a skipped one shows.
"""

import json

TEXT_FAMILIES = ("bert", "roberta", "chinese")
VISION_FAMILIES = ("clip_vision", "clip_whole", "vit", "vit_mae", "swin")
IMAGE_SIZE = 32
PATCH = 8
NUM_PATCHES = 16
WIDTH = 16
POSITIONS = 20
TITLES = ["Red pen", "Blue ink well", "Red ink", "Pen, red", "Blue pen, large", "A very large red pen of blue ink"]

_BLOCKS = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_PICTURE = {"image_size": IMAGE_SIZE, "patch_size": PATCH}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def save_tiny_model(family, folder):
    """Save a model of a family, and a tokenizer or a processor with it."""
    folder.mkdir(parents=True)
    if family in TEXT_FAMILIES:
        _save_text(family, folder)
    else:
        _save_vision(family, folder)
    return folder


def save_randomised(model, folder):
    """Draw every parameter anew, and save the model."""
    import torch

    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.normal_(0.0, 0.3, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    model.save_pretrained(str(folder))


def save_processor(folder, mean, deviation):
    """Save a picture processor with a normalisation of its own."""
    settings = {"image_processor_type": "ViTImageProcessor", "image_mean": mean, "image_std": deviation}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def _save_text(family, folder):
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    if family == "roberta":
        size = _save_byte_pairs(folder)
        # Two more positions than tokens: its table starts behind the padding id 1.
        model = RobertaModel(RobertaConfig(**_BLOCKS, vocab_size=size, max_position_embeddings=POSITIONS + 2))
    else:
        size = _save_word_pieces(folder, cased=family == "chinese")
        model = BertModel(BertConfig(**_BLOCKS, vocab_size=size, max_position_embeddings=POSITIONS))
    save_randomised(model, folder)


def _save_word_pieces(folder, *, cased):
    """Whole words of the titles, and four Chinese characters; as published, nothing but a vocab.txt is there."""
    words = sorted({word for title in TITLES for word in title.replace(",", " ,").split()})
    words = words if cased else sorted({word.lower() for word in words})
    vocabulary = [*_SPECIAL, *words, *"红色钢笔"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}))
    return len(vocabulary)


def _save_byte_pairs(folder):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TITLES, vocab_size=320, min_frequency=1, special_tokens=special, show_progress=False)
    trained.save_model(str(folder))
    tokenizer = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    tokenizer.save_pretrained(str(folder))
    return trained.get_vocab_size()


def _save_vision(family, folder):
    import transformers as hf

    if family == "clip_vision":
        model = hf.CLIPVisionModel(hf.CLIPVisionConfig(**_BLOCKS, **_PICTURE))
    elif family == "clip_whole":
        words = {**_BLOCKS, "vocab_size": 9}
        model = hf.CLIPModel(hf.CLIPConfig(vision_config={**_BLOCKS, **_PICTURE}, text_config=words))
    elif family == "vit":
        model = hf.ViTModel(hf.ViTConfig(**_BLOCKS, **_PICTURE))
    elif family == "vit_mae":  # published with its decoder
        decoder = {f"decoder_{name}": value for name, value in _BLOCKS.items()}
        model = hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**_BLOCKS, **_PICTURE, **decoder))
    else:  # published with a classifier
        stages = {"patch_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
        model = hf.SwinForImageClassification(hf.SwinConfig(image_size=IMAGE_SIZE, **stages))
    save_randomised(model, folder)
    save_processor(folder, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
