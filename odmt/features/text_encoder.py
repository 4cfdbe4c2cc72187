"""The frozen text encoder: titles in, features of their real tokens out.

Shape letters, used as name suffixes in this file:
    B items, T text tokens (padded), D features
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odmt.config import TextEncoderConfig
from odmt.errors import ConfigError
from odmt.features.encoder_checks import require_layer, require_max_tokens
from odmt.features.loading import Precision, hidden_states, load_model, loading

# Titles are padded to a multiple of this and run with those of the same padded length: little padding, few runs.
_LENGTH_STEP = 4


def tokenize(tokenizer: Any, titles: Sequence[str], max_tokens: int, *, lower_case: bool) -> list[list[int]]:
    """Turn titles into token ids: summary token, words, separator; longer titles are cut.

    Args:
        tokenizer: a Hugging Face tokenizer.
        titles: B titles; an empty one gives the two special tokens.
        max_tokens: T, special tokens included.
        lower_case: lower-case the titles first, as the authors do.

    Returns:
        The ids of each title, without padding.
    """
    if not titles:
        return []
    texts = [title.lower() for title in titles] if lower_case else list(titles)
    encoded = tokenizer(texts, max_length=max_tokens, truncation=True, padding=False)
    return [list(ids) for ids in encoded["input_ids"]]


class TextEncoder:
    """A frozen text encoder with its tokenizer: of the families BERT (Chinese ones too), RoBERTa and their like.

    Token 0 is the family's own summary token, ``[CLS]`` or ``<s>``.

    Attributes:
        width: D.
        max_tokens: most tokens of a title.
        commit: hub commit of the model, None for a folder.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        dataset_folder: Path,
        device: str = "cpu",
        precision: Precision = "fp32",
        files: Path | None = None,
    ) -> None:
        """Load both from a folder or the hub.

        Args:
            config: which model, and how.
            dataset_folder: where ``./name`` is.
            device: where the model runs.
            precision: arithmetic of the matrix products.
            files: where the files of a model lie whose own folder is on another machine; None = in that folder.

        Raises:
            MissingDataError: the model is neither in the folder nor can it be fetched; says where to put it.
            DataError: the folder is no model, or its weights are cut off, incomplete or of other shapes.
            ConfigError: the model has no such layer, takes fewer tokens, or does not start a text with a summary token.
        """
        from transformers import AutoConfig, AutoTokenizer

        with loading(config, dataset_folder, files) as source:
            settings = AutoConfig.from_pretrained(source.where, **source.options)
            self._tokenizer = AutoTokenizer.from_pretrained(source.where, **source.options)
            _require_summary_token(self._tokenizer, config)
            self._model = load_model(source, settings)
        self._model.to(device)
        self._config, self._precision = config, precision
        self.commit = source.commit
        self.max_tokens = config.max_tokens
        require_max_tokens(config, _longest_text(self._model) or config.max_tokens)
        states = self._hidden_states([tokenize(self._tokenizer, [""], self.max_tokens, lower_case=False)[0]])
        require_layer(config, len(states) - 1)
        self.width = int(states[config.layer].shape[-1])

    def count_tokens(self, titles: Sequence[str]) -> np.ndarray:
        """Return how many tokens ``encode`` gives each title, from the tokenizer alone.

        Returns:
            int64 ``(B,)``.
        """
        return np.array([len(ids) for ids in self._tokenize(titles)], dtype=np.int64)

    def encode(self, titles: Sequence[str]) -> list[np.ndarray]:
        """Return each title's features, a function of the batch alone; the batch moves them by float rounding only.

        Returns:
            B arrays, float16 ``(real tokens, D)``; what float16 does not hold is infinite.
        """
        rows = self._tokenize(titles)
        padded_lengths = np.array([self._padded_length(len(row)) for row in rows], dtype=np.int64)
        features: list[np.ndarray] = [np.empty(0)] * len(rows)
        for length in np.unique(padded_lengths):
            run = np.flatnonzero(padded_lengths == length)
            for place, array in zip(run, self._encode_run([rows[place] for place in run]), strict=True):
                features[place] = array
        return features

    def _tokenize(self, titles: Sequence[str]) -> list[list[int]]:
        return tokenize(self._tokenizer, titles, self.max_tokens, lower_case=self._config.lower_case)

    def _padded_length(self, num_tokens: int) -> int:
        return min(-(-num_tokens // _LENGTH_STEP) * _LENGTH_STEP, self.max_tokens)

    def _encode_run(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Encode rows of like length; only real tokens leave the device."""
        import torch

        hidden_BTD = self._hidden_states(rows)[self._config.layer].float()
        lengths = [len(row) for row in rows]
        mask_BT = _mask(rows, hidden_BTD.shape[1])
        tokens = hidden_BTD[torch.from_numpy(mask_BT).to(hidden_BTD.device)].to(torch.float16).cpu().numpy()
        return np.split(tokens, np.cumsum(lengths)[:-1])

    def _hidden_states(self, rows: Sequence[Sequence[int]]) -> Any:
        """Pad on the right with the tokenizer's own padding: RoBERTa counts its positions by it."""
        import torch

        length = self._padded_length(max(map(len, rows)))
        mask_BT = _mask(rows, length)
        ids_BT = np.full((len(rows), length), self._tokenizer.pad_token_id, dtype=np.int64)
        ids_BT[mask_BT] = np.concatenate(rows)
        device = self._model.device
        return hidden_states(
            self._model,
            self._precision,
            input_ids=torch.from_numpy(ids_BT).to(device),
            attention_mask=torch.from_numpy(mask_BT).to(device).long(),
        )


def _mask(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Return which of the padded tokens are real, bool ``(B, T)``."""
    return np.arange(length) < np.array([len(row) for row in rows])[:, None]


def _require_summary_token(tokenizer: Any, config: TextEncoderConfig) -> None:
    """Check that token 0 is the summary that everything downstream takes it for, and that titles can be padded."""
    first = tokenizer("")["input_ids"][:1]
    if tokenizer.cls_token_id is None or first != [tokenizer.cls_token_id] or tokenizer.pad_token_id is None:
        problem = f"model: {config.model} does not start a text with a summary token; take a BERT or RoBERTa"
        raise ConfigError("features.text", [problem])


def _longest_text(model: Any) -> int | None:
    """Return how many tokens a model has positions for; RoBERTa's table starts after its padding id."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            return int(module.num_embeddings) - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)
