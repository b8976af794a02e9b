# SPDX-License-Identifier: Apache-2.0
"""Hooks and the optimizer wrapper of a training; importing them registers them with mmdet."""

from .amp_optim_wrapper import AmpOptimWrapper
from .hooks.checkpoint_hook import CheckpointHook
from .hooks.distinct_visualization_hook import DistinctVisualizationHook
from .hooks.kernel_visualization_hook import CARAFEVisualizationHook
from .hooks.logger_hook import LoggerHook
from .hooks.num_class_check_hook import NumClassCheckHook
from .hooks.sampler_seed_hook import DistSamplerSeedHook

__all__ = [name for name, value in vars().items() if isinstance(value, type)]
