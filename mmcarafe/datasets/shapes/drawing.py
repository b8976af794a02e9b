# SPDX-License-Identifier: Apache-2.0
"""Drawing of the shapes data set: outlines, textures and whole scenes.

Everything random comes from the generator that is passed in, so a generator in the same state
draws the same picture.  Lengths are in pixels of a 160 px picture unless said otherwise and grow
with the ``size`` of the picture, its width and height in pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

SUPERSAMPLING = 4  # outlines are filled on a grid this much finer, then averaged down
MAX_DIAMETER = 90
MIN_VISIBLE = 0.35  # an object of which less is seen is left out of the picture
MIN_AREA = 80  # px of a 160 px picture; likewise
MIN_CONTRAST = 110  # RGB distance between a fill and every colour that was there before


# Curves of a shape of radius 1 around the origin, float [N, 2] arrays of (x, y), and the width of the pen
# that draws them: 0 where they are closed and filled by the even-odd rule instead.
Outline = tuple[list[np.ndarray], float]


def _polar(radius: float | np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _circle(radius: float = 1.0) -> np.ndarray:
    return _polar(radius, np.linspace(0, 2 * np.pi, 96, endpoint=False))


def _star(rng: Generator) -> Outline:
    points = int(rng.integers(5, 8))
    radius = np.tile([1.0, rng.uniform(0.42, 0.55)], points)
    return [_polar(radius, np.arange(2 * points) * np.pi / points)], 0


def _crescent(rng: Generator) -> Outline:
    # The unit circle less a circle of radius r whose centre is d to the right.
    r, d = rng.uniform(0.72, 0.85), rng.uniform(0.45, 0.6)
    corner = (1 + d * d - r * r) / (2 * d)
    outer = np.arccos(corner)
    inner = np.arctan2(np.sin(outer), corner - d)
    back = _polar(r, np.linspace(2 * np.pi - inner, inner, 64)) + np.array([d, 0])
    loop = np.concatenate([_polar(1.0, np.linspace(outer, 2 * np.pi - outer, 64)), back])
    return [loop + np.array([0.2, 0])], 0  # turns about its middle, not about the circle's


def _gear(rng: Generator) -> Outline:
    teeth = int(rng.integers(8, 11))
    root = rng.uniform(0.7, 0.76)
    # One tooth, in parts of its pitch: up the flank, along the tip, down, along the root.
    steps = np.array([0.0, 0.12, 0.42, 0.54])
    angle = (np.arange(teeth)[:, None] + steps).ravel() * 2 * np.pi / teeth
    return [_polar(np.tile([root, 1.0, 1.0, root], teeth), angle)], 0


def _wave(rng: Generator) -> Outline:
    x = np.linspace(-0.9, 0.9, 96)
    periods, phase = rng.uniform(1.2, 1.7), rng.uniform(0, 2 * np.pi)
    y = rng.uniform(0.32, 0.42) * np.sin(periods * np.pi * x / 0.9 + phase)
    return [np.stack([x, y], axis=-1)], rng.uniform(0.21, 0.26)


class Shape(NamedTuple):
    """A class of the data set: its outline, and the diameter where teeth, holes and bands are still wide."""

    outline: Callable[[Generator], Outline]
    min_diameter: int
    colour: tuple[int, int, int]  # in drawn detections, not in the pictures


SHAPES = {
    "disk": Shape(lambda rng: ([_circle()], 0), 36, (220, 20, 60)),
    "star": Shape(_star, 40, (255, 200, 0)),
    "ring": Shape(lambda rng: ([_circle(), _circle(rng.uniform(0.5, 0.64))], 0), 44, (0, 130, 200)),
    "crescent": Shape(_crescent, 44, (145, 30, 180)),
    "gear": Shape(_gear, 46, (60, 180, 75)),
    "wave": Shape(_wave, 60, (245, 130, 48)),
}
CLASSES = tuple(SHAPES)
PALETTE = tuple(shape.colour for shape in SHAPES.values())


def draw_stencil(rng: Generator, name: str, size: int) -> tuple[np.ndarray, int]:
    """Draw a shape at a random place, size and angle.

    Returns:
        Coverage of every pixel as float32 [size, size] in 0..1, and the area in pixels of the
        whole shape with what lies outside the picture.
    """
    scale = size / 160
    radius = rng.uniform(SHAPES[name].min_diameter, MAX_DIAMETER) / 2 * scale
    loops, pen = SHAPES[name].outline(rng)
    cos, sin = _polar(1.0, np.array(rng.uniform(0, 2 * np.pi)))
    turn = np.array([[cos, -sin], [sin, cos]])
    squeeze = np.array([1.0, rng.uniform(0.85, 1.0)])
    centre = rng.uniform(0.7 * radius, size - 0.7 * radius, 2)

    # A margin all round keeps what sticks out of the picture, for the whole area.
    margin = int(np.ceil(MAX_DIAMETER / 2 * scale)) + 2
    side = size + 2 * margin
    fine = np.zeros((side * SUPERSAMPLING,) * 2, np.uint8)
    placed = [(loop * squeeze) @ turn.T * radius + centre + margin for loop in loops]
    placed = [np.rint(loop * SUPERSAMPLING - 0.5).astype(np.int32) for loop in placed]
    if pen:
        cv2.polylines(fine, placed, False, 255, max(1, round(pen * radius * SUPERSAMPLING)))
    else:
        cv2.fillPoly(fine, placed, 255)
    cover = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    whole = int((cover >= 0.5).sum())
    return np.ascontiguousarray(cover[margin:-margin, margin:-margin]), whole


def _cloud(rng: Generator, size: int, cells: int) -> np.ndarray:
    """Return smooth noise in -1..1 as float32 [size, size], with about ``cells`` blobs a side."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), -1, 1)


def _texture(rng: Generator, size: int, colour: np.ndarray, strength: float) -> np.ndarray:
    """Draw a gradient, stripes, checks, blobs or speckle around a colour, float [3] in 0..255.

    Returns float32 [size, size, 3], not clipped to 0..255; it leaves the colour by ``strength`` at most.
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
    tint = (strength * rng.uniform(0.6, 1.0, 3)).astype(np.float32)
    return colour.astype(np.float32) + level.astype(np.float32)[..., None] * tint


def _new_colour(rng: Generator, taken: list[np.ndarray]) -> np.ndarray:
    """Return a colour, float [3], far from all of ``taken``; the farthest of 16 where space runs out."""
    tries = rng.uniform(15, 240, (16, 3))
    if not taken:
        return tries[0]
    gaps = np.linalg.norm(tries[:, None] - np.stack(taken), axis=-1).min(axis=1)
    good = np.flatnonzero(gaps >= MIN_CONTRAST)
    return tries[good[0] if len(good) else gaps.argmax()]


def _layout(rng: Generator, size: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Draw objects from the back to the front: label, coverage and visible mask bool [size, size]."""
    kept = []
    while not kept:
        count = int(rng.choice(4, p=[0.2, 0.3, 0.3, 0.2])) + 1
        labels = rng.integers(len(CLASSES), size=count)
        stencils = [draw_stencil(rng, CLASSES[label], size) for label in labels]
        covered = np.zeros((size, size), bool)
        # From the front, so that leaving one out only ever shows more of those behind it.
        for label, (cover, whole) in zip(labels[::-1], stencils[::-1], strict=True):
            solid = cover >= 0.5
            seen = solid & ~covered
            if seen.sum() >= max(MIN_VISIBLE * whole, MIN_AREA * (size / 160) ** 2):
                kept.append((int(label), cover, seen))
                covered |= solid
    return kept[::-1]


def draw_scene(rng: Generator, size: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw a picture with one to four objects.

    Returns:
        The picture in RGB as uint8 [size, size, 3], and for every object, from the back to the
        front, its index in ``CLASSES`` and its visible mask as bool [size, size].
    """
    objects = _layout(rng, size)
    colours = [_new_colour(rng, [])]
    image = _texture(rng, size, colours[0], rng.uniform(5, 30))
    image += 18 * _cloud(rng, size, 4)[..., None]
    for _, cover, _ in objects:
        colours.append(_new_colour(rng, colours))
        fill = _texture(rng, size, colours[-1], rng.uniform(8, 40))
        image += cover[..., None] * (fill - image)
    # Shadow and light over everything, a lens a little out of focus, and the sensor's noise.
    image *= 1 + 0.15 * _cloud(rng, size, 3)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8) * size / 160)
    image += np.float32(rng.uniform(1, 7)) * rng.standard_normal(image.shape, np.float32)
    image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return image, [(label, seen) for label, _, seen in objects]
