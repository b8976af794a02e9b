# SPDX-License-Identifier: Apache-2.0
"""Checks of an object's mask, polygons or runs, as LoadAnnotations and pycocotools read it."""

import re
from itertools import chain

from pycocotools import mask as coco_mask

from mmcarafe.datasets.checks.findings import Found

FAR = 10**6  # px from the image, and of outline: pycocotools takes 50 bytes for each that it draws
# the letters of a run, five bits each: more than pycocotools keeps, and few enough to print
RUN = "[P-o]{0,12}[0-O]"


def check_mask(ann: dict, image: dict, poly2mask: bool) -> Found:
    """Check the mask of an object."""
    mask = ann.get("segmentation")
    if not mask:
        yield "mask-missing", "segmentation is missing" if mask is None else f"segmentation is {mask!r}"
    elif isinstance(mask, list):
        yield from _check_polygons(mask, image)
    elif not isinstance(mask, dict):
        yield "mask-malformed", repr(mask)[:40]
    elif not poly2mask and not ann.get("iscrowd"):
        yield "rle-not-polygon", ""
    elif mask.get("counts") is None or mask.get("size") is None:
        yield "rle-incomplete", f"has {', '.join(mask) or 'nothing'}"
    elif mask["size"] != [image["height"], image["width"]]:
        yield "rle-size", f"size {mask['size']} in {image['height']} x {image['width']}"
    elif not isinstance(mask["counts"], (list, str)):
        yield "rle-incomplete", f"counts is {mask['counts']!r:.40}"
    else:
        yield from _check_runs(mask["counts"], *mask["size"])


def _check_polygons(parts: list, image: dict) -> Found:
    try:
        numbers = [[float(number) for number in part] for part in map(list.copy, parts)]
    except (TypeError, ValueError, OverflowError):  # words or lists where numbers are expected, or no lists
        yield "mask-malformed", repr(parts)[:40]
        return
    outline = sum(map(_outline, numbers))
    if not outline <= FAR or max(map(abs, chain(*numbers)), default=0) > FAR:  # not: where it is NaN too
        yield "polygon-not-finite", f"an outline of {outline:.0f} pixels: {repr(parts)[:40]}"
        return
    if str in map(type, chain(*parts)):
        yield "mask-text", repr(parts)[:40]
    good = [part for part in numbers if len(part) >= 6 and len(part) % 2 == 0]
    if len(good) < len(parts):
        yield "polygon-part", f"{len(parts) - len(good)} of {len(parts)}"
    drawn = coco_mask.frPyObjects(good, int(image["height"]), int(image["width"])) if good else []
    if drawn and not coco_mask.area(drawn).any():
        yield "mask-empty", f"polygon {good[0]}"[:60]


def _outline(part: list[float]) -> float:
    """Return how many pixels pycocotools draws of a polygon's outline."""
    xs, ys = part[::2], part[1::2]
    edges = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=False)
    return sum(max(abs(x - x2), abs(y - y2)) for x, y, x2, y2 in edges)


def _check_runs(counts: list | str, height: int, width: int) -> Found:
    try:
        runs = _decoded(counts) if isinstance(counts, str) else [int(run) for run in counts]
    except (TypeError, ValueError, OverflowError):
        yield "mask-malformed", f"counts {counts!r:.40}"
        return
    total, pixels = sum(runs), height * width
    if min(runs, default=0) < 0:
        yield "rle-negative", f"a run of {min(runs)} pixels"
    elif total > pixels:
        yield "mask-malformed", f"runs of more than {height} x {width} pixels: {counts!r:.40}"
    elif isinstance(counts, list) and str in map(type, counts):
        yield "mask-text", f"counts {counts!r:.40}"
    elif isinstance(counts, list) and runs != counts:
        yield "rle-runs", f"runs that are no integers: {counts!r:.40}"
    elif total < pixels:
        yield "rle-runs", f"runs of {total} pixels in {height} x {width}"
    elif not sum(runs[1::2]):
        yield "mask-empty", "no run of the mask"


def _decoded(counts: str) -> list[int]:
    """Return the runs in COCO's compressed counts; ValueError where there are others than pycocotools writes.

    A letter has five bits, the lowest first; from the fourth on, a run is its difference to the last but one.
    """
    if not re.fullmatch(f"({RUN})*", counts):
        raise ValueError(f"{counts:.40} are no letters of an RLE, or the last run is cut short")
    runs: list[int] = []
    for letters in re.findall(RUN, counts):
        value = sum((ord(letter) - 48 & 31) << 5 * place for place, letter in enumerate(letters))
        if ord(letters[-1]) - 48 & 16:  # negative
            value -= 1 << 5 * len(letters)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
