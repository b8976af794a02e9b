# SPDX-License-Identifier: Apache-2.0
"""The output pixels that are looked at: chosen by their kernels, or given in the original image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmcarafe.errors import InputError

from .view import View

MIN_KEPT_SHARE = 0.9
"""Share of a pixel that must come from the coarsest map: the rest are the zeros around the maps."""

MARGIN = 0.06
"""Share of the area at each side that is not chosen from."""

MIN_DISTANCE = 0.2
"""Least distance of chosen points, a share of the longer side."""


class Point(NamedTuple):
    """A place that is looked at."""

    x: float
    """From the left, in pixels of the image as it went into the network."""
    y: float
    """From the top."""
    what: str = ""
    """The reason to look at it."""


def choose_points(view: View, count: int = 4) -> list[Point]:
    """Choose points that show most: where kernels are far from uniform, and one where they are nearest.

    What counts is the mean entropy of the kernels of all levels at a pixel.

    Args:
        view (View): what is looked at.
        count (int): at most so many. Default: 4.

    Returns:
        list[Point]: centres of output pixels, at least ``MIN_DISTANCE`` apart; least uniform first.
    """
    entropy = view.mean_entropy()
    left, top, right, bottom = view.inside
    mx, my = MARGIN * (right - left), MARGIN * (bottom - top)
    free = np.zeros(entropy.shape, bool)
    free[view.cells((left + mx, top + my, right - mx, bottom - my))] = True
    kept = free & (view.kept() >= MIN_KEPT_SHARE)
    free = kept if kept.any() else free
    distance = MIN_DISTANCE * max(right - left, bottom - top)
    x0, y0, dx, dy = view.cell(0, 0)
    x = x0 + (np.arange(entropy.shape[1])[None] + 0.5) * dx
    y = y0 + (np.arange(entropy.shape[0])[:, None] + 0.5) * dy
    points: list[Point] = []
    while len(points) < count and free.any():
        flat = len(points) == count - 1 > 0
        score = np.where(free, -entropy if flat else entropy, np.inf)
        row, column = np.unravel_index(score.argmin(), score.shape)
        points.append(Point(x[0, column], y[row, 0], "most uniform" if flat else "least uniform"))
        free &= (x - x[0, column]) ** 2 + (y - y[row, 0]) ** 2 >= distance**2
    return points


def image_points(view: View, positions: Sequence[tuple[float, float]]) -> list[Point]:
    """Return those of the points given in pixels of the original image that are in the view's area.

    Args:
        view (View): what is looked at.
        positions (sequence of (x, y)): pixels of the original image; 0 is the first, not its edge.

    Raises:
        InputError: a position is outside the image.
    """
    (sx, sy), (height, width) = view.scale_factor, view.image.shape[:2]
    left, top, right, bottom = view.inside
    points = []
    for x, y in positions:
        if not (0 <= x < round(width / sx) and 0 <= y < round(height / sy)):
            size = f"{round(width / sx)} x {round(height / sy)}"
            raise InputError(f"point {x:g} {y:g} is outside the image, which is {size} pixels")
        x, y = min((x + 0.5) * sx, width - 0.5), min((y + 0.5) * sy, height - 0.5)
        if left <= x < right and top <= y < bottom:
            points.append(Point(x, y, "chosen"))
    return points
