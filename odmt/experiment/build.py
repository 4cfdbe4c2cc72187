"""From a configuration and arrays to a model, its batches and its evaluator."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from odmt.config import RunConfig
from odmt.data.split import Targets, last_item_targets, training_counts
from odmt.errors import CheckpointError, ConfigError
from odmt.evaluation.evaluator import Evaluation, Evaluator
from odmt.evaluation.metrics import user_groups
from odmt.experiment.arrays import TrialArrays
from odmt.experiment.shape import empty_model, id_width
from odmt.model.items import Reads
from odmt.model.recommender import SequentialRecommender
from odmt.training.batches import CandidateRule, Shard, TrainingBatches
from odmt.training.checkpoint import Checkpoint, load_weights
from odmt.training.features import ItemFeatures
from odmt.training.optim import make_optimizer, torch_settings
from odmt.training.seeding import seed_torch
from odmt.training.trainer import Step


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


def build_model(config: RunConfig, arrays: TrialArrays, device: torch.device) -> SequentialRecommender:
    """Make the model with its seeded start values.

    Raises:
        ConfigError: the ID table cannot start from features of another width, or is not as wide as it must be.
    """
    seed_torch(config.train.seed, "start values")
    start = config.model.id_init
    try:
        model = empty_model(
            config,
            num_items=arrays.split.num_items,
            text_dim=arrays.text.width,
            image_dim=arrays.image.width,
            id_dim=id_width(config, arrays.text.width, arrays.image.width),
        )
        if start != "random" and model.item_encoder.id_table is not None:
            cpu = torch.device("cpu")
            features = ItemFeatures(arrays.split.item_rows, arrays.text, arrays.image, cpu, reads="summaries")
            features.check_summaries(start)
            model.item_encoder.start_id_table(start, *features.summaries())
    except ValueError as error:
        raise ConfigError("configuration", [f"{error}; set model.id_dim, or model.id_init: random"]) from error
    return model.to(device)


def build_features(config: RunConfig, arrays: TrialArrays, reads: Reads, device: torch.device) -> ItemFeatures:
    """Put the frozen features where training and evaluation gather them."""
    return ItemFeatures(
        arrays.split.item_rows,
        arrays.text,
        arrays.image,
        device,
        reads=reads,
        residence=config.train.features,
        items_per_group=config.train.items_per_group,
        width=config.model.embedding_dim,
    )


def build_batches(
    config: RunConfig, arrays: TrialArrays, features: ItemFeatures, shard: Shard | None = None
) -> TrainingBatches:
    """Make the training batches; of several processes, this one's.

    Raises:
        ConfigError: there are fewer users than batches in a step.
    """
    return TrainingBatches(
        arrays.split,
        features,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        rule=CandidateRule(
            config.loss.kind, config.loss.popularity_power, config.loss.num_negatives, config.loss.gathered_negatives
        ),
        batches_per_step=config.train.accumulate_batches,
        shard=shard,
    )


class Run(NamedTuple):
    """The parts of one process of a training run."""

    step: Step
    features: ItemFeatures
    batches: TrainingBatches


def build_run(
    config: RunConfig, arrays: TrialArrays, saved: Checkpoint | None, device: torch.device, shard: Shard
) -> Run:
    """Make a process's model, optimiser and batches, and put them where a checkpoint left them.

    Raises:
        CheckpointError: the checkpoint does not fit the configuration.
        ConfigError: the configuration does not fit the data.
    """
    model = build_model(config, arrays, device)
    features = build_features(config, arrays, model.item_encoder.reads, device)
    batches = build_batches(config, arrays, features, shard)
    if config.train.compile:
        model.item_encoder.compile(dynamic=True)
    optimizer = make_optimizer(model.parameters(), config.train)
    step = Step(model, optimizer, config.train, config.distill, steps_per_epoch=len(batches))
    if saved is not None:
        try:
            model.load_state_dict(saved.weights)
            optimizer.load_state_dict(saved.state["optimizer"])
            if step.scaler.is_enabled():
                step.scaler.load_state_dict(saved.state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"the checkpoint of epoch {saved.epoch} does not fit the run: {error}") from error
    return Run(step, features, batches)


def build_evaluator(config: RunConfig, arrays: TrialArrays, targets: Targets, features: ItemFeatures) -> Evaluator:
    """Make the evaluator of some targets."""
    return Evaluator(
        targets,
        partial(features.chunks, config.train.eval_batch_size),
        config.data.max_seq_len,
        config.train.eval_batch_size,
        config.data.rank_repeat_targets,
        user_groups(targets, training_counts(arrays.split), config.data.short_history_len),
    )


def validation_targets(arrays: TrialArrays) -> Targets:
    """Return the last item that a trial may see of each user, and what came before it."""
    return last_item_targets(arrays.split.offsets, arrays.split.items)


def load_model(config: RunConfig, arrays: TrialArrays, checkpoint: Path, device: str = "cpu") -> SequentialRecommender:
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
    model: SequentialRecommender, config: RunConfig, arrays: TrialArrays, targets: Targets, device: str = "cpu"
) -> Evaluation:
    """Measure a model on some targets: see ``Evaluator.measure``."""
    features = build_features(config, arrays, model.item_encoder.reads, torch.device(device))
    with torch_settings(config.train):
        return build_evaluator(config, arrays, targets, features).measure(model)
