# SPDX-License-Identifier: Apache-2.0
"""Hooks; importing them registers them."""

from .checkpoint_hook import CheckpointHook
from .distinct_visualization_hook import DistinctVisualizationHook
from .kernel_visualization_hook import CARAFEVisualizationHook
from .logger_hook import LoggerHook
from .num_class_check_hook import NumClassCheckHook
from .sampler_seed_hook import DistSamplerSeedHook

__all__ = [
    "CARAFEVisualizationHook",
    "CheckpointHook",
    "DistSamplerSeedHook",
    "DistinctVisualizationHook",
    "LoggerHook",
    "NumClassCheckHook",
]
