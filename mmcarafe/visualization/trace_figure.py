# SPDX-License-Identifier: Apache-2.0
"""Draw where output pixels come from, through all levels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from .parts import FONT, NOTE, colour_bar, grid, heading, image_title, label, map_title, mark, show_image
from .points import Point
from .view import View

MIN_SHARE = 0.01
"""Share of an output pixel below which a cell is not drawn."""

STYLES = ("-", "--", "-.", ":")
"""Lines of the levels' frames, finest first."""


def draw_trace(view: View, points: Sequence[Point]) -> Figure:
    """Draw where each point's pixel came from: a row a point, the image, then each level enlarged."""
    figure, axes = grid(len(points), len(view.calls) + 1, 2.9, 2.45, "constrained")
    heading(
        figure, view, "Where output pixels come from",
        "Square: a cell of a source map, the larger and lighter the larger its share of the output pixel. "
        "Red frame: the output pixel. Shares below 1 % are not drawn. Past the border of a map are zeros.",
    )  # fmt: skip
    for number, (point, row) in enumerate(zip(points, axes, strict=True)):
        weights = view.weights(point.x, point.y)
        _overview(view, weights, row[0])
        mark([point], row[0], number)
        row[0].set_ylabel(label(view, point, number), fontsize=FONT + 1)
        for level, axis in enumerate(row[1:]):
            _gathered(view, point, weights[level], level, axis)
            if number == 0:
                axis.set_title(f"from the {map_title(view, level)}", fontsize=FONT)
    axes[0, 0].set_title(image_title(view), fontsize=FONT)
    lines = [
        Line2D([], [], color="black", linestyle=STYLES[level % len(STYLES)], label=map_title(view, level))
        for level in range(len(view.calls))
    ]
    axes[-1, 0].legend(
        handles=lines, loc="upper left", bbox_to_anchor=(0, -0.02), fontsize=NOTE,
        title="frames: area of the squares in the", title_fontsize=NOTE, alignment="left",
    )  # fmt: skip
    return figure


def _overview(view: View, weights: list[np.ndarray], axis: Axes) -> None:
    """Draw the image, and a frame for what each level gathers."""
    show_image(view, axis)
    for level, weight in enumerate(weights):
        left, top, right, bottom = _footprint(view, weight, level)
        frame = Rectangle(
            (left, top), right - left, bottom - top, fill=False, ec="white", lw=1.5,
            linestyle=STYLES[level % len(STYLES)],
        )  # fmt: skip
        frame.set_path_effects([withStroke(linewidth=3.5, foreground="black")])
        axis.add_patch(frame)


def _footprint(view: View, weight: np.ndarray, level: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the cells with a share worth drawing, or of the largest."""
    rows, columns = np.nonzero(weight >= min(MIN_SHARE, weight.max()))
    left, top, _, _ = view.cell(rows.min(), columns.min(), level)
    right, bottom, _, _ = view.cell(rows.max() + 1, columns.max() + 1, level)
    return left, top, right, bottom


def _gathered(view: View, point: Point, weight: np.ndarray, level: int, axis: Axes) -> None:
    """Draw one level: squares over the enlarged image."""
    show_image(view, axis, gray=True)
    places = np.argwhere(weight >= MIN_SHARE)
    shares = weight[weight >= MIN_SHARE]
    squares = []
    for (row, column), share in zip(places, shares, strict=True):
        left, top, dx, dy = view.cell(row, column, level)
        axis.add_patch(Rectangle((left, top), dx, dy, fill=False, ec="0.35", lw=0.5))
        side = 0.94 * np.sqrt(share / shares.max())
        corner = left + dx * (1 - side) / 2, top + dy * (1 - side) / 2
        squares.append(Rectangle(corner, dx * side, dy * side))
    collection = PatchCollection(squares, cmap="viridis", edgecolor="black", linewidth=0.4, zorder=3)
    collection.set_array(100 * shares)
    collection.set_clim(0, 100 * weight.max())
    axis.add_collection(collection)
    left, top, dx, dy = view.cell(*view.pixel(point.x, point.y))
    axis.add_patch(Rectangle((left, top), dx, dy, fill=False, ec="white", lw=3, zorder=4))
    axis.add_patch(Rectangle((left, top), dx, dy, fill=False, ec="#D55E00", lw=1.8, zorder=4))
    _zoom(axis, _footprint(view, weight, level), view.step(level))
    colour_bar(collection, axis, "share [%]", shrink=0.9)
    if weight.sum() < 1 - MIN_SHARE:
        text = f"{1 - weight.sum():.0%} from past the border"
        box = dict(fc="white", ec="0.5", pad=2)
        axis.text(0.03, 0.03, text, transform=axis.transAxes, fontsize=NOTE, bbox=box)


def _zoom(axis: Axes, area: tuple[float, float, float, float], step: tuple[float, float]) -> None:
    """Show an area and a cell around it, at least seven cells and square."""
    left, top, right, bottom = area
    half = max(right - left + 2 * step[0], bottom - top + 2 * step[1], 7 * max(step)) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    axis.set_xlim(x - half, x + half)
    axis.set_ylim(y + half, y - half)
