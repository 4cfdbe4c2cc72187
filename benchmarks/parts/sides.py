"""The two sides of the training benchmark: our trainer and the authors' algorithm, at the authors' settings."""

import dataclasses
from typing import Any

import numpy as np
import torch

from parts import authors
from parts.workload import IMAGE_TOKENS, MAX_SEQ_LEN, TEXT_TOKENS, Workload, log_popularity

TEMPERATURE, KD_WEIGHT, LEARNING_RATE, WEIGHT_DECAY, GRAD_CLIP, DROPOUT = 0.3, 1.0, 1e-4, 0.1, 5.0, 0.1


class Ours:
    """The trainer of the package, at the authors' settings."""

    def __init__(self, workload: Workload, width: int, device: torch.device, precision: str) -> None:
        from odmt.config import DistillConfig, TrainConfig
        from odmt.data.split import DevelopmentSplit
        from odmt.features.ragged import RaggedFeatures
        from odmt.training.batches import TrainingBatches
        from odmt.training.features import ItemFeatures
        from odmt.training.optim import make_optimizer
        from odmt.training.trainer import Step

        split = DevelopmentSplit(workload.item_rows, workload.offsets, workload.items, MAX_SEQ_LEN)
        text, image = (
            RaggedFeatures.of(workload.tokens[name], workload.token_offsets[name]) for name in ("text", "image")
        )
        features = ItemFeatures(workload.item_rows, text, image, device, width=width)
        self.batches = TrainingBatches(split, features, batch_size=1, seed=0)
        self.model = make_our_model(len(workload.item_rows), width).to(device)
        train = TrainConfig(
            learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, grad_clip=GRAD_CLIP, precision=precision
        )
        distill = DistillConfig(temperature=TEMPERATURE, weight=KD_WEIGHT, rampup_epochs=0.0)
        optimizer = make_optimizer(self.model.parameters(), train)
        self._timed = Step(self.model, optimizer, train, distill)
        self._exact = Step(self.model, optimizer, dataclasses.replace(train, precision="fp32"), distill)

    def step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """See ``Side``."""
        terms = self._timed([self.batches.batch([slots_BS])], 1)
        return terms["ce"], terms["kd"]

    def float32_step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """See ``Side``."""
        terms = self._exact([self.batches.batch([slots_BS])], 1)
        return terms["ce"], terms["kd"]


def make_our_model(num_items: int, width: int) -> Any:
    """Make the model at the authors' settings, 2 + 2 blocks of 2 heads; its ID table starts at random."""
    from odmt.config import FusionConfig, ModelConfig, RunConfig, SequenceConfig
    from odmt.experiment.shape import empty_model

    config = RunConfig(
        model=ModelConfig(embedding_dim=width, id_init="random"),
        fusion=FusionConfig(num_layers=2, num_heads=2, dropout=DROPOUT, id_masking=True),
        sequence=SequenceConfig(num_layers=2, num_heads=2, dropout=DROPOUT),
    )
    return empty_model(config, num_items=num_items, text_dim=width, image_dim=width, id_dim=width)


class Theirs:
    """The authors' algorithm."""

    def __init__(self, workload: Workload, width: int, device: torch.device, precision: str) -> None:
        sizes = authors.Sizes(len(workload.item_rows), width, width, width, width, MAX_SEQ_LEN, dropout=DROPOUT)
        self._slot_tokens = authors.SlotTokens
        self.model = authors.Authors(sizes).to(device)
        self.device = device
        self.autocast = precision == "bf16"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        num_rows = len(workload.token_offsets["text"]) - 1
        longest = max(TEXT_TOKENS)
        text = np.zeros((num_rows + 1, longest, width), dtype=np.float16)
        mask = np.arange(longest) < np.append(np.diff(workload.token_offsets["text"]), 0)[:, None]
        text[mask] = workload.tokens["text"]
        image = np.zeros((num_rows + 1, IMAGE_TOKENS, width), dtype=np.float16)
        image[:-1] = workload.tokens["image"].reshape(num_rows, IMAGE_TOKENS, width)
        row_of_item = np.append(num_rows, workload.item_rows)  # padding has the last row: zeros
        self.text, self.text_mask, self.image, self.row_of_item, self.log_popularity = (
            torch.from_numpy(array).to(device)
            for array in (text, mask, image, row_of_item.astype(np.int64), log_popularity(workload))
        )

    def step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """See ``Side``."""
        return self._step(slots_BS, self.autocast)

    def float32_step(self, slots_BS: np.ndarray) -> tuple[float, float]:
        """See ``Side``."""
        return self._step(slots_BS, autocast=False)

    def _step(self, slots_BS: np.ndarray, autocast: bool) -> tuple[float, float]:
        slots = torch.from_numpy(slots_BS).to(self.device)
        rows = self.row_of_item[slots.flatten()]
        tokens = self._slot_tokens(self.text[rows].float(), self.text_mask[rows], self.image[rows].float())
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=autocast):
            terms = self.model(slots, tokens, self.log_popularity[slots], kd_weight=KD_WEIGHT, temperature=TEMPERATURE)
        terms.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        self.optimizer.step()
        return terms.ce.item(), terms.kd.item()
