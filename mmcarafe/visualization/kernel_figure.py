# SPDX-License-Identifier: Apache-2.0
"""The reassembly kernels at points."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .parts import FONT, NOTE, colour_bar, grid, heading, label, module_title
from .points import Point
from .view import View

MAX_PRINTED_KERNEL = 7
"""Largest kernel whose weights are printed."""


def draw_kernels(view: View, points: Sequence[Point]) -> Figure:
    """Draw the kernel that each level has at each point: a row a level, a column a point, one scale."""
    figure, axes = grid(len(view.calls), len(points), 2.3, 2.0)
    kernels = [[100 * kernel for kernel in view.kernels(point.x, point.y)] for point in points]
    largest = max(kernel.max() for column in kernels for kernel in column)
    dots = "; dots are weights below 0.5 %" if largest >= 10 else ""
    heading(
        figure, view, "Reassembly kernels at the points",
        "Weights in % with which an output pixel is made from the source pixels around the one below it"
        f"{dots}.",
    )  # fmt: skip
    scale = ScalarMappable(Normalize(0, largest), "cividis")
    for number, (column, column_axes) in enumerate(zip(kernels, axes.T, strict=True)):
        column_axes[0].set_title(label(view, points[number], number), fontsize=FONT + 1)
        for kernel, axis in zip(column, column_axes, strict=True):
            _kernel(kernel, scale, axis)
    for level, axis in enumerate(axes[:, 0]):
        axis.set_ylabel(module_title(view, level), fontsize=FONT)
    bar = colour_bar(scale, axes.ravel().tolist(), "weight [%]", shrink=0.9, aspect=30)
    for uniform in {100 / call.kernel_size**2 for call in view.calls}:
        bar.ax.axhline(uniform, color="white", lw=4)
        bar.ax.axhline(uniform, color="#D55E00", lw=2)
        bar.ax.annotate(
            f"uniform\n{uniform:.3g} %", (0, uniform), (-5, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="center", fontsize=NOTE, color="#A04000",
        )  # fmt: skip
    return figure


def _kernel(kernel: np.ndarray, scale: ScalarMappable, axis: Axes) -> None:
    axis.imshow(kernel, cmap=scale.cmap, norm=scale.norm)
    side = len(kernel)
    offsets = [f"{i:+d}" if i else "0" for i in range(-(side // 2), side // 2 + 1)]
    axis.set_xticks(range(side), offsets)
    axis.set_yticks(range(side), offsets)
    axis.tick_params(labelsize=NOTE, length=0)
    if side > MAX_PRINTED_KERNEL:
        return
    digits = 0 if scale.norm.vmax >= 10 else 2 if side <= 5 else 1
    for (row, column), value in np.ndenumerate(kernel):
        text = f"{value:.{digits}f}" if value >= 0.5 or digits else "·"
        colour = "black" if scale.norm(value) > 0.55 else "white"
        axis.text(
            column, row, text, ha="center", va="center", fontsize=NOTE if digits else FONT, color=colour
        )
