"""The frozen image encoder: pixels in, features of their tokens out, token 0 the picture's summary.

Which families have a summary token of their own is found by running the model, not by its name: the embedding of a
learned summary token is the same for every picture (ViT, ViT-MAE, CLIP), that of a patch is not (Swin). A family
without one gets the mean of its tokens as token 0, so it has one token more than the model.

Layers are what the model calls hidden states: blocks, but of a Swin its stages, whose widths and token counts differ.

Shape letters, used as name suffixes in this file:
    B items, V image tokens, D features, C colours, S pixels a side, N patches
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from odmt.config import ImageEncoderConfig
from odmt.errors import ConfigError
from odmt.features.encoder_checks import MASKED_FAMILY, require_image_size, require_layer, require_maskable
from odmt.features.loading import Precision, Source, hidden_states, load_model, loading

if TYPE_CHECKING:
    import torch

_KEY_BYTES = 8


def patch_places(digest: bytes, num_patches: int) -> np.ndarray:
    """Return the place of each patch in the random order that a picture's digest draws.

    The draw is a SHAKE-128 stream, so it depends on nothing but the digest: no batch, no library's generator.

    Returns:
        float32 ``(N,)``: 0 to N - 1, each once.
    """
    keys = np.frombuffer(hashlib.shake_128(digest).digest(_KEY_BYTES * num_patches), dtype="<u8")
    return np.argsort(np.argsort(keys, kind="stable")).astype(np.float32)


class ImageEncoder:
    """A frozen image encoder; of a CLIP the vision tower only.

    Attributes:
        width: D, of the layer that is kept.
        max_tokens: V, the same for every picture.
        commit: hub commit of the model, None for a folder.
        image_size: pixels a side that ``encode`` takes.
    """

    def __init__(
        self,
        config: ImageEncoderConfig,
        dataset_folder: Path,
        device: str = "cpu",
        precision: Precision = "fp32",
        files: Path | None = None,
    ) -> None:
        """Load it from a folder or the hub.

        Args:
            config: which model, and how.
            dataset_folder: where ``./name`` is.
            device: where the model runs.
            precision: arithmetic of the matrix products.
            files: where the files of a model lie whose own folder is on another machine; None = in that folder.

        Raises:
            MissingDataError: the model is neither in the folder nor can it be fetched; says where to put it.
            DataError: the folder is no model, lacks a processor that is wanted, or its weights are cut off,
                incomplete or of other shapes.
            ConfigError: the model has no such layer, another image size, no tokens, or no patches to leave out.
        """
        from transformers import AutoConfig

        with loading(config, dataset_folder, files) as source:
            settings = AutoConfig.from_pretrained(source.where, **source.options)
            tower = getattr(settings, "vision_config", settings)
            require_maskable(config, tower.model_type)
            require_image_size(config, getattr(tower, "image_size", None) or config.image_size)
            self._model = load_model(source, tower)
            mean, deviation = _normalisation(config, source)
        self._model.to(device)
        self._mean_C11, self._deviation_C11 = _colours(mean, device), _colours(deviation, device)
        self._config, self._precision = config, precision
        self.image_size = config.image_size
        self.commit = source.commit
        self._is_masked_family = tower.model_type == MASKED_FAMILY
        if self._is_masked_family:
            self._model.config.mask_ratio = config.mask_ratio
        self._has_summary, self.max_tokens, self.width = self._measure()

    def encode(self, pixels: Sequence[np.ndarray], digests: Sequence[bytes]) -> list[np.ndarray]:
        """Return each picture's features, a function of the batch alone; the batch moves them by float rounding only.

        Args:
            pixels: B pictures: uint8 ``(S, S, 3)``, or float32 ``(3, S, S)`` normalised by mean and deviation 0.5.
            digests: of each picture's content; they decide which patches a masked ViT-MAE sees.

        Returns:
            B arrays, float16 ``(V, D)``; what float16 does not hold is infinite.
        """
        import torch

        if not pixels:
            return []
        tokens_BVD = self._hidden_states(pixels, digests)[self._config.layer].float()
        if not self._has_summary:
            tokens_BVD = torch.cat([tokens_BVD.mean(dim=1, keepdim=True), tokens_BVD], dim=1)
        return list(tokens_BVD.to(torch.float16).cpu().numpy())

    def _hidden_states(self, pixels: Sequence[np.ndarray], digests: Sequence[bytes]) -> "tuple[torch.Tensor, ...]":
        import torch

        inputs = {"pixel_values": self._normalised(pixels)}
        if self._is_masked_family:  # it keeps the patches of the lowest noise, in its order
            num_patches = self._model.embeddings.patch_embeddings.num_patches
            noise_BN = np.tile(np.arange(num_patches, dtype=np.float32), (len(pixels), 1))
            if self._config.mask_ratio > 0:
                noise_BN = np.stack([patch_places(digest, num_patches) for digest in digests])
            inputs["noise"] = torch.from_numpy(noise_BN).to(self._model.device)
        return hidden_states(self._model, self._precision, **inputs)

    def _normalised(self, pixels: Sequence[np.ndarray]) -> "torch.Tensor":
        """Return float32 ``(B, 3, S, S)``; the arithmetic of torchvision's ToTensor and Normalize, step by step."""
        import torch

        device = self._model.device
        batch_BCSS = torch.empty((len(pixels), 3, self.image_size, self.image_size), device=device)
        coded = [place for place, picture in enumerate(pixels) if picture.dtype == np.uint8]
        if coded:
            bytes_BSSC = torch.from_numpy(np.stack([pixels[place] for place in coded])).to(device)
            # A tensor, not a number: dividing by a number, CUDA multiplies by its rounded inverse.
            scaled_BCSS = bytes_BSSC.permute(0, 3, 1, 2).float() / torch.tensor(255.0, device=device)
            batch_BCSS[coded] = (scaled_BCSS - self._mean_C11) / self._deviation_C11
        floats = [place for place, picture in enumerate(pixels) if picture.dtype != np.uint8]
        if floats:
            halved_BCSS = torch.from_numpy(np.stack([pixels[place] for place in floats])).to(device)
            if self._config.normalisation == "processor":
                halved_BCSS = (halved_BCSS * 0.5 + 0.5 - self._mean_C11) / self._deviation_C11
            batch_BCSS[floats] = halved_BCSS
        return batch_BCSS

    def _measure(self) -> tuple[bool, int, int]:
        """Run a grey and a random picture; return whether there is a summary token, V and D."""
        import torch

        shape = (self.image_size, self.image_size, 3)
        grey = np.full(shape, 128, dtype=np.uint8)
        random = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        states = self._hidden_states([grey, random], [b"grey", b"random"])
        require_layer(self._config, len(states) - 1)
        start, kept = states[0], states[self._config.layer]
        if start.ndim != 3 or kept.ndim != 3:
            problem = f"model: {self._config.model} gives no tokens but maps of shape {tuple(kept.shape[1:])}"
            raise ConfigError("features.image", [problem])
        has_summary = torch.equal(start[0, 0], start[1, 0])
        return has_summary, int(kept.shape[1]) + (not has_summary), int(kept.shape[2])


def _normalisation(config: ImageEncoderConfig, source: Source) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and the deviation of the three colours."""
    from transformers import AutoImageProcessor

    if config.normalisation == "half":
        return (0.5,) * 3, (0.5,) * 3
    processor = AutoImageProcessor.from_pretrained(source.where, **source.options)
    mean, deviation = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if mean is None or deviation is None or len(mean) != 3 or len(deviation) != 3:
        problem = f"normalisation: the processor of {config.model} names no mean and deviation of three colours"
        raise ConfigError("features.image", [problem])
    return mean, deviation


def _colours(values: Sequence[float], device: str) -> "torch.Tensor":
    import torch

    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
