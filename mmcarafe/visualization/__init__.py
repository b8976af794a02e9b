# SPDX-License-Identifier: Apache-2.0
"""Pictures of what CARAFE does in a detector: where pixels come from, kernels, entropy, feature maps."""

from .drawing import draw, to_rgb
from .hook import CARAFEVisualizationHook
from .points import Point, choose_points, image_points
from .view import View, load_image, look, select, test_pipeline, to_bgr

__all__ = [
    "CARAFEVisualizationHook",
    "Point",
    "View",
    "choose_points",
    "draw",
    "image_points",
    "load_image",
    "look",
    "select",
    "test_pipeline",
    "to_bgr",
    "to_rgb",
]
