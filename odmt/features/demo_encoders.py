"""Tiny text and image encoders with seeded random weights, saved as ordinary Hugging Face folders.

They stand in for bert-base-uncased and CLIP ViT-B/32 where no model can be fetched: same classes, same loading path.
Random features still tell words and pictures apart; the start values are chosen so that the summary token reads
the others and position does not drown content.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.features.loading import quiet_transformers

WIDTH = 64
_LAYERS = 2
_HEADS = 2
_SEED = 1
_VOCABULARY = 2000
_MAX_POSITIONS = 64
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WEIGHT_SCALE = 0.05  # measured on the demo: larger blurs the words, smaller leaves the summary token empty

TINY_TEXT = TextEncoderConfig(model="./encoders/text", layer=-1, max_tokens=16)
TINY_IMAGE = ImageEncoderConfig(model="./encoders/image", layer=-1, image_size=32)


def tiny_encoders_exist(dataset_folder: Path) -> bool:
    """Return whether both tiny encoders lie inside a data set's folder."""
    return all((dataset_folder / "encoders" / name / "config.json").is_file() for name in ("text", "image"))


def make_tiny_encoders(dataset_folder: Path, titles: Sequence[str]) -> bool:
    """Make ``encoders/text`` and ``encoders/image`` inside a data set's folder where they are missing.

    Args:
        dataset_folder: folder of the prepared data set.
        titles: what the tokenizer is trained on.

    Returns:
        Whether anything was made.
    """
    folder = dataset_folder / "encoders"
    made = False
    for name in ("text", "image"):
        if (folder / name / "config.json").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
        try:
            with quiet_transformers():
                if name == "text":
                    _save_text_encoder(temporary, titles)
                else:
                    _save_image_encoder(temporary)
            temporary.chmod(0o755)
            for file in temporary.iterdir():
                file.chmod(0o644)
            os.replace(temporary, folder / name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        made = True
    return made


def _save_text_encoder(folder: Path, titles: Sequence[str]) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    words = _vocabulary(titles)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=True)
    tokenizer.save_pretrained(str(folder))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=_MAX_POSITIONS,
        initializer_range=_WEIGHT_SCALE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.mul_(0.2)
    model.save_pretrained(str(folder), safe_serialization=True)


def _save_image_encoder(folder: Path) -> None:
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        image_size=TINY_IMAGE.image_size,
        patch_size=16,
        projection_dim=WIDTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = CLIPVisionModel(config)
    model.save_pretrained(str(folder), safe_serialization=True)


def _vocabulary(titles: Sequence[str]) -> list[str]:
    """Train WordPiece on the titles; the same titles give the same words in the same order.

    The trainer numbers inner letters in the order of a randomly seeded hash map, and breaks ties by number. Naming
    them beforehand, sorted, takes the chance out of it.
    """
    from tokenizers import BertWordPieceTokenizer

    trained = BertWordPieceTokenizer(lowercase=True)
    texts = [trained.normalizer.normalize_str(title) for title in titles]
    inner = [f"##{letter}" for letter in sorted({letter for text in texts for letter in text if not letter.isspace()})]
    trained.train_from_iterator(
        texts, vocab_size=_VOCABULARY, min_frequency=2, show_progress=False, special_tokens=[*_SPECIAL_TOKENS, *inner]
    )
    vocabulary: dict[str, int] = trained.get_vocab()
    return sorted(vocabulary, key=lambda word: vocabulary[word])
