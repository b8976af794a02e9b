# SPDX-License-Identifier: Apache-2.0
"""Maps over the image: entropy of the kernels, and features before and after."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from .parts import (
    FONT,
    colour_bar,
    grid,
    heading,
    image_title,
    limit,
    mark,
    module_title,
    proportions,
    show_image,
)
from .points import Point
from .view import View

NARROW = 0.1
"""Largest departure from 1 up to which maps of entropy are drawn as that departure, to have contrast."""

WINDOW = 40
"""Cells of a map, each way, that are shown of its features; pixels are still visible then."""


def draw_entropy(view: View, points: Sequence[Point]) -> Figure:
    """How far from uniform the kernels are, over the image: a column a level, one scale."""
    maps = [view.entropy(level) for level in range(len(view.calls))]
    parts = [values[view.cells(view.inside, level - 1)] for level, values in enumerate(maps)]
    most = 1 - min(part.min() for part in parts)
    narrow = most <= NARROW
    norm = Normalize(0, max(most, 1e-9)) if narrow else PowerNorm(_gamma(parts), 0, 1)
    width, height = proportions(view.inside, 3.0)
    figure, axes = grid(1, len(maps) + 1, width, height + 0.5)
    scale = (
        f"0 to {most:.2g}: the kernels are near uniform everywhere"
        if narrow
        else "bent so that half of all pixels are in its darker half"
    )
    heading(
        figure, view, "How uniform the reassembly kernels are",
        "Dark: the kernel picks few source pixels. Light: all count the same. "
        f"One scale for all maps, {scale}.",
    )  # fmt: skip
    show_image(view, axes[0, 0])
    mark(points, axes[0, 0])
    axes[0, 0].set_title(image_title(view), fontsize=FONT)
    for level, (values, part) in enumerate(zip(maps, parts, strict=True)):
        axis = axes[0, level + 1]
        shown = axis.imshow(
            1 - values if narrow else values, cmap="viridis_r" if narrow else "viridis", norm=norm,
            extent=view.extent(values.shape, level - 1), interpolation="nearest",
        )  # fmt: skip
        limit(view, axis)
        mark(points, axis)
        summary = f"min {part.min():.2f}, mean {part.mean():.2f}, max {part.max():.2f}"
        if narrow:
            summary = f"mean {1 - part.mean():.1e}, max {1 - part.min():.1e}"
        axis.set_title(f"{module_title(view, level)}\n{summary}", fontsize=FONT)
    text = "1 - entropy, 0 = uniform" if narrow else "entropy, 1 = uniform"
    bar = colour_bar(shown, axes[0].tolist(), text, shrink=0.8)
    if narrow:
        bar.formatter.set_powerlimits((-2, 2))
        bar.ax.invert_yaxis()
    else:
        bar.set_ticks(norm.inverse(np.linspace(0, 1, 6)), minor=False)
        bar.ax.yaxis.set_major_formatter("{x:.2g}")
    return figure


def _gamma(parts: list[np.ndarray]) -> float:
    """The exponent that brings the median of all values to the middle of a scale of 0 to 1."""
    median = np.median(np.concatenate([part.ravel() for part in parts]))
    return float(np.clip(np.log(0.5) / np.log(np.clip(median, 0.01, 0.99)), 0.3, 3))


def draw_features(view: View, points: Sequence[Point]) -> Figure:
    """Each level's map before and after CARAFE, and after nearest and bilinear: a row a level, one scale."""
    windows = [_window(view, level, points[0]) for level in range(len(view.calls))]
    sizes = [proportions(window, 2.4) for window in windows]
    figure, axes = grid(len(view.calls), 6, max(w for w, _ in sizes), 0.82 * max(h for _, h in sizes) + 0.2)
    heading(
        figure, view, "One channel before and after upsampling",
        "Of each map the channel that varies most in the part shown, around point A. "
        "The four maps of a row have one scale.",
    )  # fmt: skip
    for level, (call, row) in enumerate(zip(view.calls, axes, strict=True)):
        before = call.features[view.index].float()
        window = windows[level]
        channel = int(before[(slice(None), *view.cells(window, level))].flatten(1).var(1).argmax())
        x = before[None, channel : channel + 1]
        after = call.output()[view.index, channel].float()
        nearest = F.interpolate(x, scale_factor=call.scale, mode="nearest")[0, 0]
        bilinear = F.interpolate(x, scale_factor=call.scale, mode="bilinear", align_corners=False)[0, 0]
        part = x[0, 0][view.cells(window, level)]
        scale = dict(cmap="viridis", vmin=float(part.min()), vmax=float(part.max()))
        difference = after - nearest
        most = max(float(difference[view.cells(window, level - 1)].abs().max()), 1e-12)
        panels = (
            ("before", x[0, 0], level, scale),
            ("nearest", nearest, level - 1, scale),
            ("bilinear", bilinear, level - 1, scale),
            ("CARAFE", after, level - 1, scale),
            ("CARAFE - nearest", difference, level - 1, dict(cmap="PuOr", vmin=-most, vmax=most)),
        )
        show_image(view, row[0])
        mark(points[:1], row[0])
        row[0].set_ylabel(module_title(view, level), fontsize=FONT)
        row[0].set_title("image", fontsize=FONT)
        for axis, (title, values, at, options) in zip(row[1:], panels, strict=True):
            shown = axis.imshow(
                values.cpu().numpy(), extent=view.extent(values.shape, at), interpolation="nearest", **options
            )
            axis.set_title(title, fontsize=FONT)
            if title == "CARAFE":
                colour_bar(shown, row[1:5].tolist(), f"channel {channel}", shrink=0.85)
        colour_bar(shown, row[5], "difference", shrink=0.85)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlim(window[0], window[2])
            axis.set_ylim(window[3], window[1])
    return figure


def _window(view: View, level: int, point: Point) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is shown: at most ``WINDOW`` cells of the map, around a point."""
    left, top, right, bottom = view.inside
    dx, dy = view.step(level)
    width, height = min(right - left, WINDOW * dx), min(bottom - top, WINDOW * dy)
    x = min(max(point.x - width / 2, left), right - width)
    y = min(max(point.y - height / 2, top), bottom - height)
    return x, y, x + width, y + height
