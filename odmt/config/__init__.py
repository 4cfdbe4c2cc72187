"""Frozen configuration sections, and the strict way from YAML to them."""

from odmt.config.base import Section
from odmt.config.data_sections import (
    DataConfig,
    FeaturesConfig,
    ImageEncoderConfig,
    PrepareConfig,
    TextEncoderConfig,
    names_folder,
)
from odmt.config.inert import effective_values, inert_paths
from odmt.config.loading import dotted_values, from_mapping, read_yaml, replace_values, to_mapping
from odmt.config.model_sections import DistillConfig, FusionConfig, LossConfig, ModelConfig, SequenceConfig
from odmt.config.sections import CheckpointConfig, RunConfig, TrainConfig

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "DistillConfig",
    "FeaturesConfig",
    "FusionConfig",
    "ImageEncoderConfig",
    "LossConfig",
    "ModelConfig",
    "PrepareConfig",
    "RunConfig",
    "Section",
    "SequenceConfig",
    "TextEncoderConfig",
    "TrainConfig",
    "dotted_values",
    "effective_values",
    "from_mapping",
    "inert_paths",
    "names_folder",
    "read_yaml",
    "replace_values",
    "to_mapping",
]
