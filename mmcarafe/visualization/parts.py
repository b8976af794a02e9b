# SPDX-License-Identifier: Apache-2.0
"""Draw what the pictures have in common. Colours and colour maps can be told apart by the colour-blind."""

from collections.abc import Sequence
from string import ascii_uppercase
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from .points import Point
from .view import View

POINT_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#009E73", "#D55E00", "#0072B2")
"""Okabe and Ito's; points have letters too."""

NOTE, FONT, TITLE = 8, 9, 11
"""Sizes of text in points."""


def grid(
    rows: int, columns: int, width: float, height: float, layout: str = "compressed"
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, [rows, columns]; the size of one in inches is given.

    The layout "compressed" moves axes of one size together, "constrained" suits those of different sizes.
    """
    figure = Figure(figsize=(max(columns * width, 5.5), rows * height + 0.7), layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False)


def proportions(area: tuple[float, float, float, float], side: float) -> tuple[float, float]:
    """Return width and height of axes for an area (left, top, right, bottom); the longer is ``side``."""
    ratio = (area[3] - area[1]) / (area[2] - area[0])
    return max(side * min(1, 1 / ratio), 0.6 * side), max(side * min(1, ratio), 0.4 * side)


def heading(figure: Figure, view: View, title: str, explanation: str) -> None:
    """Write what the picture shows above it, and how to read it below."""
    inches = figure.get_figwidth()
    roi = ", RoI with the highest score" if view.is_roi else ""
    title = fill(f"{title}: {view.name}{roi}", int(8 * inches))
    figure.suptitle(title, fontsize=TITLE + 1, fontweight="bold")
    figure.supxlabel(fill(explanation, int(13 * inches)), fontsize=FONT)


def show_image(view: View, axis: Axes, gray: bool = False) -> None:
    """Show the image, or the part of it that the maps cover; faint where something is drawn over it."""
    height, width = view.image.shape[:2]
    pixels = view.image
    if gray:
        pixels = (100 + 0.6 * view.image.mean(2, keepdims=True).repeat(3, 2)).astype(np.uint8)
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    limit(view, axis)


def limit(view: View, axis: Axes) -> None:
    """Show what maps and image have in common."""
    left, top, right, bottom = view.inside
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    axis.set_xticks([])
    axis.set_yticks([])


def mark(points: Sequence[Point], axis: Axes, first: int = 0) -> None:
    """Draw a dot and a letter at each point; ``first`` is the number of the first."""
    for number, point in enumerate(points, first):
        colour = POINT_COLOURS[number % len(POINT_COLOURS)]
        axis.plot(point.x, point.y, "o", ms=7, mfc=colour, mec="black", mew=1.2, zorder=5)
        axis.annotate(
            letter(number), (point.x, point.y), (6, 5), textcoords="offset points", color=colour,
            fontsize=TITLE + 1, fontweight="bold", zorder=6, annotation_clip=False,
            path_effects=[withStroke(linewidth=3, foreground="black")],
        )  # fmt: skip


def letter(number: int) -> str:
    """Return A, B, C, ... and A2, B2, ... after Z."""
    times, place = divmod(number, len(ascii_uppercase))
    return ascii_uppercase[place] + (str(times + 1) if times else "")


def label(view: View, point: Point, number: int) -> str:
    """Return a point's letter, what it was chosen for, and the mean entropy of its kernels."""
    return f"{letter(number)}: {point.what}\nentropy {view.mean_entropy()[view.pixel(point.x, point.y)]:.2f}"


def image_title(view: View) -> str:
    """Say what is seen of the image."""
    height, width = view.image.shape[:2]
    return "image in the RoI" if view.is_roi else f"image, {width} x {height} pixels"


def map_title(view: View, level: int) -> str:
    """Describe the map that a level takes: size, and size of a cell in the image."""
    rows, columns = view.calls[level].features.shape[2:]
    dx, dy = view.step(level)
    cell = f"cells of {dx:.3g} x {dy:.3g} px" if view.is_roi else f"stride {dx:.3g}"
    return f"{columns} x {rows} map, {cell}"


def module_title(view: View, level: int) -> str:
    """Return a level's module, below the name of the component, and its sizes."""
    call = view.calls[level]
    name = call.name.removeprefix(f"{view.name}.")
    before, after = (f"{t.shape[3]} x {t.shape[2]}" for t in (call.features, call.kernels))
    return f"{name}\n{before} → {after}"


def colour_bar(shown, axis: Axes | list[Axes], text: str, **options) -> Colorbar:
    """Draw a labelled colour bar beside axes."""
    figure = axis[0].figure if isinstance(axis, list) else axis.figure
    bar = figure.colorbar(shown, ax=axis, **options)
    bar.ax.tick_params(labelsize=NOTE)
    bar.set_label(text, fontsize=FONT)
    return bar
