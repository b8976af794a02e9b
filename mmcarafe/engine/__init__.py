# SPDX-License-Identifier: Apache-2.0
"""How a training runs: hooks and the optimizer wrapper; importing them registers them with mmdet."""

from .amp_optim_wrapper import AmpOptimWrapper
from .hooks import (
    CARAFEVisualizationHook,
    CheckpointHook,
    DistinctVisualizationHook,
    DistSamplerSeedHook,
    LoggerHook,
    NumClassCheckHook,
)

__all__ = [
    "AmpOptimWrapper",
    "CARAFEVisualizationHook",
    "CheckpointHook",
    "DistSamplerSeedHook",
    "DistinctVisualizationHook",
    "LoggerHook",
    "NumClassCheckHook",
]
