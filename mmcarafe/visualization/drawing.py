# SPDX-License-Identifier: Apache-2.0
"""Draw all pictures of a view, and give their pixels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .kernel_figure import draw_kernels
from .map_figures import draw_entropy, draw_features
from .points import Point
from .trace_figure import draw_trace
from .view import View

PICTURES = dict(trace=draw_trace, kernels=draw_kernels, entropy=draw_entropy, features=draw_features)
"""Functions that draw the pictures, by name."""


def draw(view: View, points: Sequence[Point]) -> dict[str, Figure]:
    """Draw all pictures of a view, by name: trace, kernels, entropy and features.

    Args:
        view (View): what is drawn.
        points (sequence of Point): one or more that lie in it.
    """
    return {name: figure(view, points) for name, figure in PICTURES.items()}


def to_rgb(figure: Figure, dpi: int = 100) -> np.ndarray:
    """Return a figure's pixels: uint8 [H, W, 3], RGB; ``dpi`` is pixels an inch, 100 by default."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
