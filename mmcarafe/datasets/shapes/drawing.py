# SPDX-License-Identifier: Apache-2.0
"""Drawing of the shapes data set: outlines, textures and whole scenes.

Everything random comes from the generator that is passed in, so a generator in the same state
draws the same picture.  Lengths are in pixels of a 160 px picture unless said otherwise and grow
with the size of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

CLASSES = ("disk", "star", "ring", "crescent", "gear", "wave")
PALETTE = (
    (220, 20, 60),
    (255, 200, 0),
    (0, 130, 200),
    (145, 30, 180),
    (60, 180, 75),
    (245, 130, 48),
)

SUPERSAMPLING = 4  # outlines are filled on a grid this much finer, then averaged down
MAX_DIAMETER = 90
# Smallest diameter per class: where teeth, holes and bands are still several pixels across.
MIN_DIAMETER = {"disk": 36, "star": 40, "ring": 44, "crescent": 44, "gear": 46, "wave": 60}
MIN_VISIBLE = 0.35  # an object of which less is seen is left out of the picture
MIN_AREA = 80  # px of a 160 px picture; likewise
MIN_CONTRAST = 110  # RGB distance between a fill and every colour that was there before


class Outline(NamedTuple):
    """Curves of a shape of radius 1 around the origin.

    ``loops`` are float [N, 2] arrays of (x, y).  With ``stroke`` 0 they are closed and filled by
    the even-odd rule; otherwise they are open lines of that width.
    """

    loops: list[np.ndarray]
    stroke: float = 0.0


def _polar(radius: float | np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _circle(radius: float = 1.0) -> np.ndarray:
    return _polar(radius, np.linspace(0, 2 * np.pi, 96, endpoint=False))


def _disk(rng: np.random.Generator) -> Outline:
    return Outline([_circle()])


def _star(rng: np.random.Generator) -> Outline:
    points = int(rng.integers(5, 8))
    radius = np.tile([1.0, rng.uniform(0.42, 0.55)], points)
    return Outline([_polar(radius, np.arange(2 * points) * np.pi / points)])


def _ring(rng: np.random.Generator) -> Outline:
    return Outline([_circle(), _circle(rng.uniform(0.5, 0.64))])


def _crescent(rng: np.random.Generator) -> Outline:
    # The unit circle less a circle of radius r whose centre is d to the right.
    r, d = rng.uniform(0.72, 0.85), rng.uniform(0.45, 0.6)
    corner = (1 + d * d - r * r) / (2 * d)
    outer = np.arccos(corner)
    inner = np.arctan2(np.sin(outer), corner - d)
    back = _polar(r, np.linspace(2 * np.pi - inner, inner, 64)) + np.array([d, 0])
    loop = np.concatenate([_polar(1.0, np.linspace(outer, 2 * np.pi - outer, 64)), back])
    return Outline([loop + np.array([0.2, 0])])  # turns about its middle, not about the circle's


def _gear(rng: np.random.Generator) -> Outline:
    teeth = int(rng.integers(8, 11))
    root = rng.uniform(0.7, 0.76)
    # One tooth, in parts of its pitch: up the flank, along the tip, down, along the root.
    steps = np.array([0.0, 0.12, 0.42, 0.54])
    angle = (np.arange(teeth)[:, None] + steps).ravel() * 2 * np.pi / teeth
    return Outline([_polar(np.tile([root, 1.0, 1.0, root], teeth), angle)])


def _wave(rng: np.random.Generator) -> Outline:
    x = np.linspace(-0.9, 0.9, 96)
    periods, phase = rng.uniform(1.2, 1.7), rng.uniform(0, 2 * np.pi)
    y = rng.uniform(0.32, 0.42) * np.sin(periods * np.pi * x / 0.9 + phase)
    return Outline([np.stack([x, y], axis=-1)], stroke=rng.uniform(0.21, 0.26))


_OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "disk": _disk,
    "star": _star,
    "ring": _ring,
    "crescent": _crescent,
    "gear": _gear,
    "wave": _wave,
}


def draw_stencil(rng: np.random.Generator, name: str, size: int) -> tuple[np.ndarray, int]:
    """Draws one shape at a random place, size and angle.

    Args:
        rng: the source of everything random.
        name: one of ``CLASSES``.
        size: width and height of the picture, in pixels.

    Returns:
        Coverage of every pixel as float32 [size, size] in 0..1, and the area in pixels of the
        whole shape with what lies outside the picture.

    Raises:
        KeyError: ``name`` is no class.
    """
    scale = size / 160
    radius = rng.uniform(MIN_DIAMETER[name], MAX_DIAMETER) / 2 * scale
    outline = _OUTLINES[name](rng)
    cos, sin = _polar(1.0, np.array(rng.uniform(0, 2 * np.pi)))
    turn = np.array([[cos, -sin], [sin, cos]])
    squeeze = np.array([1.0, rng.uniform(0.85, 1.0)])
    centre = rng.uniform(0.7 * radius, size - 0.7 * radius, 2)

    # A margin all round keeps what sticks out of the picture, for the whole area.
    margin = int(np.ceil(MAX_DIAMETER / 2 * scale)) + 2
    side = (size + 2 * margin) * SUPERSAMPLING
    fine = np.zeros((side, side), np.uint8)
    loops = [
        np.rint(((loop * squeeze) @ turn.T * radius + centre + margin) * SUPERSAMPLING - 0.5)
        for loop in outline.loops
    ]
    loops = [loop.astype(np.int32) for loop in loops]
    if outline.stroke:
        width = max(1, round(outline.stroke * radius * SUPERSAMPLING))
        cv2.polylines(fine, loops, False, 255, width)
    else:
        cv2.fillPoly(fine, loops, 255)
    coarse = (size + 2 * margin,) * 2
    cover = cv2.resize(fine, coarse, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    whole = int((cover >= 0.5).sum())
    return np.ascontiguousarray(cover[margin:-margin, margin:-margin]), whole


def _cloud(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise in -1..1 as float32 [size, size], with about ``cells`` blobs a side."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), -1, 1)


def draw_texture(rng: np.random.Generator, size: int, colour: np.ndarray, strength: float) -> np.ndarray:
    """Fills a picture with a gradient, stripes, checks, blobs or speckle around one colour.

    Args:
        rng: the source of everything random.
        size: width and height, in pixels.
        colour: the middle colour, float [3] in 0..255.
        strength: how far the texture leaves it at most, in grey levels.

    Returns:
        float32 [size, size, 3], not clipped to 0..255.
    """
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(6, 16) * size / 160
    line = np.arange(size, dtype=np.float32)
    cos, sin = _polar(1.0, np.array(angle)).astype(np.float32)
    along = cos * line + sin * line[:, None]
    across = cos * line[:, None] - sin * line
    kind = rng.integers(5)
    if kind == 0:
        level = np.clip((along - along.mean()) / size * 2, -1, 1)
    elif kind == 1:
        level = np.sin(along * 2 * np.pi / period)
    elif kind == 2:
        level = np.sign(np.sin(along * np.pi / period) * np.sin(across * np.pi / period))
    elif kind == 3:
        level = _cloud(rng, size, int(rng.integers(6, 24)))
    else:
        level = rng.uniform(-1, 1, (size, size))
    # Mostly brighter and darker, and a little off in hue.
    tint = strength * rng.uniform(0.6, 1.0, 3)
    level = level.astype(np.float32)[..., None]
    return colour.astype(np.float32) + level * tint.astype(np.float32)


def _new_colour(rng: np.random.Generator, taken: list[np.ndarray]) -> np.ndarray:
    """A colour, float [3], far from all of ``taken``; the farthest of 16 where space runs out."""
    tries = rng.uniform(15, 240, (16, 3))
    if not taken:
        return tries[0]
    gaps = np.linalg.norm(tries[:, None] - np.stack(taken), axis=-1).min(axis=1)
    good = np.flatnonzero(gaps >= MIN_CONTRAST)
    return tries[good[0] if len(good) else gaps.argmax()]


def _layout(rng: np.random.Generator, size: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Objects from the back to the front: label, coverage and visible mask bool [size, size]."""
    while True:
        count = int(rng.choice(4, p=[0.2, 0.3, 0.3, 0.2])) + 1
        labels = rng.integers(len(CLASSES), size=count)
        stencils = [draw_stencil(rng, CLASSES[label], size) for label in labels]
        covered = np.zeros((size, size), bool)
        kept = []
        # From the front, so that leaving one out only ever shows more of those behind it.
        for label, (cover, whole) in zip(labels[::-1], stencils[::-1], strict=True):
            solid = cover >= 0.5
            seen = solid & ~covered
            if seen.sum() >= max(MIN_VISIBLE * whole, MIN_AREA * (size / 160) ** 2):
                kept.append((int(label), cover, seen))
                covered |= solid
        if kept:
            return kept[::-1]


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list]:
    """Draws a picture with one to four objects.

    Args:
        rng: the source of everything random.
        size: width and height of the picture, in pixels.

    Returns:
        The picture in RGB as uint8 [size, size, 3], and for every object, from the back to the
        front, its index in ``CLASSES`` and its visible mask as bool [size, size].
    """
    objects = _layout(rng, size)
    colours = [_new_colour(rng, [])]
    image = draw_texture(rng, size, colours[0], rng.uniform(5, 30))
    image += 18 * _cloud(rng, size, 4)[..., None]
    for _, cover, _ in objects:
        colours.append(_new_colour(rng, colours))
        fill = draw_texture(rng, size, colours[-1], rng.uniform(8, 40))
        image += cover[..., None] * (fill - image)
    # Shadow and light over everything, a lens a little out of focus, and the sensor's noise.
    image *= 1 + 0.15 * _cloud(rng, size, 3)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8) * size / 160)
    image += np.float32(rng.uniform(1, 7)) * rng.standard_normal(image.shape, np.float32)
    image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return image, [(label, seen) for label, _, seen in objects]
