# SPDX-License-Identifier: Apache-2.0
"""How a training runs: hooks and the optimizer wrapper; importing them registers them with mmdet."""

from .amp_optim_wrapper import AmpOptimWrapper
from .hooks.checkpoint_hook import CheckpointHook
from .hooks.kernel_visualization_hook import CARAFEVisualizationHook
from .hooks.logger_hook import LoggerHook
from .hooks.mirrored_visualization_hook import MirroredVisualizationHook
from .hooks.num_class_check_hook import NumClassCheckHook
from .hooks.sampler_seed_hook import DistSamplerSeedHook

__all__ = [
    "AmpOptimWrapper",
    "CARAFEVisualizationHook",
    "CheckpointHook",
    "DistSamplerSeedHook",
    "LoggerHook",
    "MirroredVisualizationHook",
    "NumClassCheckHook",
]
