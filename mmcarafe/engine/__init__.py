# SPDX-License-Identifier: Apache-2.0
"""Hooks and the optimizer wrapper of a training; ``register`` makes them a library's."""

from types import ModuleType

from .amp_optim_wrapper import AmpOptimWrapper
from .hooks.checkpoint_hook import CheckpointHook
from .hooks.kernel_visualization_hook import CARAFEVisualizationHook
from .hooks.logger_hook import LoggerHook
from .hooks.sampler_seed_hook import DistSamplerSeedHook

__all__ = [name for name, value in vars().items() if isinstance(value, type) and value is not ModuleType]


def register(registry: ModuleType) -> None:
    """Register what takes over mmengine's names with a library: ``mmdet.registry``, ``mmseg.registry``."""
    for hook in (CheckpointHook, DistSamplerSeedHook, LoggerHook):
        registry.HOOKS.register_module(module=hook)
    registry.OPTIM_WRAPPERS.register_module(module=AmpOptimWrapper)
