"""From a configuration and arrays to a model, its batches and its evaluator."""

from functools import partial
from pathlib import Path

import torch

from odmt.config import RunConfig
from odmt.data.split import Targets, last_item_targets
from odmt.errors import CheckpointError, ConfigError
from odmt.evaluation.evaluator import Evaluator
from odmt.experiment.arrays import TrialArrays
from odmt.experiment.shape import empty_model
from odmt.model.odmt import Odmt
from odmt.training.batches import ItemFeatures, TrainingBatches
from odmt.training.checkpoint import load_weights
from odmt.training.seeding import seed_torch


def choose_device(name: str | None = None) -> torch.device:
    """Return the named device, or the first GPU that is visible, or the CPU.

    Raises:
        ConfigError: the name is not a device's, or this machine has none of that name.
    """
    if name is not None:
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ConfigError("--device", [f"{name!r} cannot be used here: {reason}"]) from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_model(config: RunConfig, arrays: TrialArrays, device: torch.device) -> Odmt:
    """Make the model with its seeded start values.

    Raises:
        ConfigError: the ID table cannot start from features of another width.
    """
    seed_torch(config.train.seed, "start values")
    start = config.model.id_init
    feature_width = arrays.image.width if start == "image" else arrays.text.width
    id_dim = config.model.id_dim or (config.model.embedding_dim if start == "random" else feature_width)
    model = empty_model(
        config,
        num_items=arrays.split.num_items,
        text_dim=arrays.text.width,
        image_dim=arrays.image.width,
        id_dim=id_dim,
    )
    if start != "random":
        features = ItemFeatures(arrays.split.item_rows, arrays.text, arrays.image, torch.device("cpu"))
        try:
            model.start_id_table(start, *features.summaries())
        except ValueError as error:
            raise ConfigError("configuration", [f"{error}; set model.id_dim, or model.id_init: random"]) from error
    return model.to(device)


def build_batches(config: RunConfig, arrays: TrialArrays, device: torch.device) -> TrainingBatches:
    """Make the training batches."""
    return TrainingBatches(
        arrays.split,
        ItemFeatures(arrays.split.item_rows, arrays.text, arrays.image, device),
        batch_size=config.train.batch_size,
        popularity_power=config.loss.popularity_power,
        seed=config.train.seed,
    )


def build_evaluator(config: RunConfig, arrays: TrialArrays, targets: Targets, device: torch.device) -> Evaluator:
    """Make the evaluator of some targets."""
    features = ItemFeatures(arrays.split.item_rows, arrays.text, arrays.image, device)
    return Evaluator(
        targets,
        partial(features.chunks, config.train.eval_batch_size),
        config.data.max_seq_len,
        config.train.eval_batch_size,
        config.data.rank_repeat_targets,
    )


def validation_targets(arrays: TrialArrays) -> Targets:
    """Return the last item that a trial may see of each user, and what came before it."""
    return last_item_targets(arrays.split.offsets, arrays.split.items)


def load_model(config: RunConfig, arrays: TrialArrays, checkpoint: Path, device: str = "cpu") -> Odmt:
    """Make the model of a configuration with a checkpoint's weights, in evaluation mode.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another configuration.
    """
    model = build_model(config, arrays, torch.device(device))
    try:
        model.load_state_dict(load_weights(checkpoint, device))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: does not fit the configuration: {error}") from error
    return model.eval()


def evaluate_model(
    model: Odmt, config: RunConfig, arrays: TrialArrays, targets: Targets, device: str = "cpu"
) -> dict[str, float]:
    """Measure a model on some targets: see ``Evaluator.metrics``."""
    return build_evaluator(config, arrays, targets, torch.device(device)).metrics(model)
