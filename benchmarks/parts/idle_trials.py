"""Trials that do nothing but report, for measuring what the search around them costs."""

import time
from collections.abc import Iterator
from typing import Any

from odmt.experiment.run import EpochResult


def idle_run(config: Any, arrays: Any, *, checkpoints: Any) -> Iterator[EpochResult]:
    """Yield as many results as the configuration has epochs, each after a sleep; forty metrics each, as a real run."""
    del arrays, checkpoints
    for epoch in range(1, config.train.max_epochs + 1):
        time.sleep(max(0.0, config.train.grad_clip - 1e-6))
        value = 1.0 - abs(config.train.weight_decay - 0.3) + epoch / 1000
        metrics = {f"valid/part{number}/ndcg_at_10": value for number in range(40)}
        yield EpochResult(epoch, {"valid/ndcg_at_10": value, **metrics}, 0.0, None, epoch == config.train.max_epochs)
