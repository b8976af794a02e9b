# SPDX-License-Identifier: Apache-2.0
"""Maps over the image: entropy of the kernels, and features before and after."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from mmcarafe.analysis import Reassembly

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

MAX_NARROW_RANGE = 0.1
"""Largest departure from 1 up to which maps of entropy are drawn as that departure, to have contrast."""

MAX_CELLS = 40
"""Cells of a map, each way, that are shown of its features; pixels are still visible then."""


def draw_entropy(view: View, points: Sequence[Point]) -> Figure:
    """Draw how far from uniform the kernels are, over the image: a column a level, one scale."""
    maps = [view.entropy(level) for level in range(len(view.calls))]
    parts = [values[view.cells(view.inside, level - 1)] for level, values in enumerate(maps)]
    most = 1 - min(part.min() for part in parts)
    narrow = most <= MAX_NARROW_RANGE
    if narrow:
        style = dict(cmap="viridis_r", norm=Normalize(0, max(most, 1e-9)))
        scale, text = f"0 to {most:.2g}: the kernels are near uniform everywhere", "1 - entropy, 0 = uniform"
    else:
        style = dict(cmap="viridis", norm=PowerNorm(_gamma(parts), 0, 1))
        scale, text = "bent so that half of all pixels are in its darker half", "entropy, 1 = uniform"
    width, height = proportions(view.inside, 3.0)
    figure, axes = grid(1, len(maps) + 1, width, height + 0.5)
    heading(
        figure, view, "How uniform the reassembly kernels are",
        "Dark: the kernel picks few source pixels. Light: all count the same. "
        f"One scale for all maps, {scale}.",
    )  # fmt: skip
    show_image(view, axes[0, 0])
    mark(points, axes[0, 0])
    axes[0, 0].set_title(image_title(view), fontsize=FONT)
    for level, (axis, values, part) in enumerate(zip(axes[0, 1:], maps, parts, strict=True)):
        extent = view.extent(values.shape, level - 1)
        shown = axis.imshow(1 - values if narrow else values, extent=extent, interpolation="nearest", **style)
        limit(view, axis)
        mark(points, axis)
        summary = f"min {part.min():.2f}, mean {part.mean():.2f}, max {part.max():.2f}"
        if narrow:
            summary = f"mean {1 - part.mean():.1e}, max {1 - part.min():.1e}"
        axis.set_title(f"{module_title(view, level)}\n{summary}", fontsize=FONT)
    bar = colour_bar(shown, axes[0].tolist(), text, shrink=0.8)
    if narrow:
        bar.formatter.set_powerlimits((-2, 2))
        bar.ax.invert_yaxis()
    else:
        bar.set_ticks(style["norm"].inverse(np.linspace(0, 1, 6)), minor=False)
        bar.ax.yaxis.set_major_formatter("{x:.2g}")
    return figure


def _gamma(parts: list[np.ndarray]) -> float:
    """Return the exponent that brings the median of all values to the middle of a scale of 0 to 1."""
    median = np.median(np.concatenate([part.ravel() for part in parts]))
    return float(np.clip(np.log(0.5) / np.log(np.clip(median, 0.01, 0.99)), 0.3, 3))


def draw_features(view: View, points: Sequence[Point]) -> Figure:
    """Draw each level's map before and after CARAFE, nearest and bilinear: a row a level, one scale."""
    windows = [_window(view, level, points[0]) for level in range(len(view.calls))]
    sizes = [proportions(window, 2.4) for window in windows]
    what = "downsampling" if view.calls[0].downsamples else "upsampling"
    figure, axes = grid(len(view.calls), 6, max(w for w, _ in sizes), 0.82 * max(h for _, h in sizes) + 0.2)
    heading(
        figure, view, f"One channel before and after {what}",
        "Of each map the channel that varies most in the part shown, around point A. "
        "The four maps of a row have one scale.",
    )  # fmt: skip
    for level, (call, row) in enumerate(zip(view.calls, axes, strict=True)):
        before = call.features[view.index].float()
        window = windows[level]
        channel = int(before[(slice(None), *view.cells(window, level))].flatten(1).var(1).argmax())
        x = before[None, channel : channel + 1]
        after = call.output()[view.index, channel].float()
        nearest, bilinear = _interpolated(x, call)
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


def _interpolated(x: Tensor, call: Reassembly) -> tuple[Tensor, Tensor]:
    """Return what nearest and bilinear make of a map [1, 1, H, W] in place of the module."""
    s = call.scale
    if call.downsamples:  # kernels are centred on every s-th pixel
        size = call.kernels.shape[2:]
        return x[0, 0, ::s, ::s], F.interpolate(x, size=size, mode="bilinear", align_corners=False)[0, 0]
    nearest = F.interpolate(x, scale_factor=s, mode="nearest")[0, 0]
    return nearest, F.interpolate(x, scale_factor=s, mode="bilinear", align_corners=False)[0, 0]


def _window(view: View, level: int, point: Point) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of at most ``MAX_CELLS`` cells of the map around a point."""
    left, top, right, bottom = view.inside
    dx, dy = view.step(level)
    width, height = min(right - left, MAX_CELLS * dx), min(bottom - top, MAX_CELLS * dy)
    x = min(max(point.x - width / 2, left), right - width)
    y = min(max(point.y - height / 2, top), bottom - height)
    return x, y, x + width, y + height
