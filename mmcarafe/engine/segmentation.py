# SPDX-License-Identifier: Apache-2.0
"""What a training of mmsegmentation's needs beside :mod:`mmcarafe.engine`; importing it registers both."""

from mmseg import registry

from mmcarafe import engine

from .hooks.map_check_hook import MapCheckHook
from .hooks.map_visualization_hook import MapVisualizationHook

__all__ = ["MapCheckHook", "MapVisualizationHook"]

engine.register(registry)
# the name of mmdet's, which the commands ask for
registry.HOOKS.register_module(name="NumClassCheckHook", module=MapCheckHook)
