# SPDX-License-Identifier: Apache-2.0
"""Checks of an object's mask, polygons or runs, as LoadAnnotations and pycocotools read it."""

from itertools import chain
from math import isfinite
from operator import mul

from pycocotools import mask as coco_mask

from mmcarafe.datasets.checks.annotations import Found

FAR = 10**6  # px from the image, and of outline: pycocotools takes 50 bytes for each that it draws
RUN_BITS = 64  # more than pycocotools keeps of a run, and few enough to print


def check_mask(ann: dict, image: dict, poly2mask: bool) -> Found:
    """The mask, as LoadAnnotations and pycocotools read it."""
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
    else:
        yield from _check_rle(mask, image)


def _check_polygons(parts: list, image: dict) -> Found:
    if not all(isinstance(part, list) for part in parts):  # numbers or words
        yield "mask-malformed", repr(parts)[:40]
        return
    written = parts
    try:
        parts = [[*map(float, part)] for part in parts]
    except (TypeError, ValueError, OverflowError):  # lists or words where numbers are expected
        yield "mask-malformed", repr(parts)[:40]
        return
    outer = [f(part) for part in parts if part for f in (min, max)]
    if not isfinite(sum(map(sum, parts))) or any(abs(number) > FAR for number in outer):
        yield "polygon-not-finite", repr(parts)[:40]
        return
    longest = max(outer, default=0) - min(outer, default=0)  # that an edge can be
    if longest * sum(map(len, parts)) > FAR and (outline := sum(map(_outline, parts))) > FAR:
        yield "polygon-not-finite", f"an outline of {outline:.0f} pixels"
        return
    if str in map(type, chain.from_iterable(written)):
        yield "mask-text", repr(written)[:40]
    good = [part for part in parts if len(part) >= 6 and len(part) % 2 == 0]
    if len(good) < len(parts):
        yield "polygon-part", f"{len(parts) - len(good)} of {len(parts)}"
    if good and not any(_covers(part, image["width"], image["height"]) for part in good):
        yield "mask-empty", f"polygon {good[0]}"[:60]


def _outline(part: list[float]) -> float:
    """How many pixels pycocotools draws of a polygon's outline."""
    xs, ys = part[::2], part[1::2]
    edges = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=False)
    return sum(max(abs(x - x2), abs(y - y2)) for x, y, x2, y2 in edges)


def _covers(part: list[float], width: float, height: float) -> bool:
    """Whether a polygon covers a pixel of the image; drawn only where its outline leaves a doubt."""
    xs, ys = part[::2], part[1::2]
    left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return False
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        turned = sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1]))
        if abs(turned) >= 8 * (right - left + bottom - top):  # area of 2 pixels for each it is long
            return True
    return bool(coco_mask.area(coco_mask.frPyObjects([part], int(height), int(width))).sum())


def _check_rle(mask: dict, image: dict) -> Found:
    size, counts = mask["size"], mask["counts"]
    if size != [image["height"], image["width"]]:
        yield "rle-size", f"size {size} in {image['height']} x {image['width']}"
        return
    if not isinstance(counts, (list, str)):
        yield "rle-incomplete", f"counts is {counts!r:.40}"
        return
    if not counts:
        yield "rle-runs", f"counts is {counts!r}"
        return
    try:
        runs = _runs(counts) if isinstance(counts, str) else [int(run) for run in counts]
    except (TypeError, ValueError, OverflowError):
        yield "mask-malformed", f"counts {counts!r:.40}"
        return
    total = sum(runs)
    if min(runs) < 0:
        yield "rle-negative", f"a run of {min(runs)} pixels"
    elif total > size[0] * size[1]:
        yield "mask-malformed", f"runs of more than {size[0]} x {size[1]} pixels: {counts!r:.40}"
    elif isinstance(counts, list) and str in map(type, counts):
        yield "mask-text", f"counts {counts!r:.40}"
    elif isinstance(counts, list) and runs != counts:
        yield "rle-runs", f"runs that are no integers: {counts!r:.40}"
    elif total < size[0] * size[1]:
        yield "rle-runs", f"runs of {total} pixels in {size}"
    elif not sum(runs[1::2]):
        yield "mask-empty", "no run of the mask"


def _runs(counts: str) -> list[int]:
    """The runs in COCO's compressed counts: five bits a letter, differences to the last but one run."""
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode("ascii"):
        letter = code - 48
        if not 0 <= letter < 64:
            raise ValueError(f"{chr(code)!r} is no letter of an RLE")
        value |= (letter & 31) << shift
        shift += 5
        if not letter & 32:
            if letter & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
        elif shift > RUN_BITS:
            raise ValueError(f"a run of more than {RUN_BITS} bits")
    if shift:
        raise ValueError("the last run is cut short")
    return runs
