# SPDX-License-Identifier: Apache-2.0
"""Pictures of what CARAFE does in a model: where pixels come from, kernels, entropy, feature maps."""

from .drawing import draw, to_rgb
from .kernel_page import page
from .loading import image_pipeline, load_image, to_bgr
from .points import Point, choose_points, image_points
from .view import View, look, select

__all__ = [
    "Point",
    "View",
    "choose_points",
    "draw",
    "image_pipeline",
    "image_points",
    "load_image",
    "look",
    "page",
    "select",
    "to_bgr",
    "to_rgb",
]
