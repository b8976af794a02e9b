# SPDX-License-Identifier: Apache-2.0
"""Checks of a COCO annotation file; what they find is listed in dataset_kinds.py.

Checks are generators of pairs: the name of a kind, and what the reader needs to see of it.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from math import isfinite
from operator import mul
from typing import NamedTuple

from pycocotools import mask as coco_mask

Found = Iterator[tuple[str, str]]

MAX_INT = 2**63
FAR = 10**6  # px; the memory that drawing a polygon takes grows with its outline
EDGE = 1.0  # px by which boxes may leave the image by rounding


class Example(NamedTuple):
    """Where a problem is."""

    file_name: str | None
    image_id: Hashable
    annotation_id: Hashable
    detail: str


class Findings(defaultdict[str, list[Example]]):
    """All examples of each kind of problem that was found."""

    def __init__(self):
        super().__init__(list)

    def add(
        self, found: Iterable[tuple[str, str]], image: dict | None = None, ann: dict | None = None
    ) -> bool:
        """Note what a check found; whether there was anything."""
        noted = False
        for kind, detail in found:
            image_id = image.get("id") if image else (ann or {}).get("image_id")
            name = image.get("file_name") if image else None
            self[kind].append(Example(name, image_id, (ann or {}).get("id"), detail))
            noted = True
        return noted


def _is_number(value: object) -> bool:
    """Neither a bool nor an integer that no float holds."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= MAX_INT)


def _is_size(value: object) -> bool:
    return _is_number(value) and 1 <= value < 2**31


def _is_id(value: object) -> bool:
    return isinstance(value, str) or _is_number(value)


ID_TWICE = dict(images="image-id-twice", categories="category-id-twice", annotations="annotation-id-twice")
FIELDS = {
    "images": dict(id=_is_id, file_name=lambda v: isinstance(v, str), height=_is_size, width=_is_size),
    "categories": dict(id=_is_id, name=lambda v: isinstance(v, str)),
    "annotations": dict(
        id=_is_id,
        image_id=_is_id,
        category_id=_is_id,
        bbox=lambda v: isinstance(v, list) and len(v) == 4 and all(map(_is_number, v)),
        area=_is_number,
    ),
}


def check_fields(entry: object, part: str) -> Found:
    """Fields that are missing or of a wrong type in an entry of images, annotations or categories."""
    if not isinstance(entry, dict):
        yield "field", f"{part} has {entry!r:.40}, not an object with fields"
        return
    for name, right in FIELDS[part].items():
        if name not in entry:
            yield "field", f"{part}: {name} is missing"
        elif not right(entry[name]):
            yield "field", f"{part}: {name} is {entry[name]!r:.40}"


def check_ids(entries: list[dict], part: str) -> Found:
    """Ids that occur twice, and those of another kind than COCO's, which are integers from 1."""
    ids = [entry["id"] for entry in entries]
    if len(set(ids)) < len(ids):
        for number, times in Counter(ids).items():
            if times > 1:
                yield ID_TWICE[part], f"id {number!r} {times} times"
    if part != "annotations" and len({isinstance(number, str) for number in ids}) > 1:
        yield "id-mixed", part
    for number in ids:
        if not isinstance(number, int):
            yield "annotation-id-type" if part == "annotations" else "id-type", f"id {number!r} of {part}"
        elif number == 0 and part == "annotations":
            yield "annotation-id-0", ""


def check_categories(categories: list[dict], classes: tuple[str, ...] | None) -> Found:
    """The file's categories among themselves and against a config's classes."""
    names = [category["name"] for category in categories]
    for name, times in Counter(names).items():
        if times > 1:
            yield "category-name-twice", f"{name!r} {times} times"
    if classes is None:
        return
    for name in dict.fromkeys(names):
        if name not in classes:
            yield "category-not-in-config", repr(name)
    for name in classes:
        if name not in names:
            yield "class-not-in-file", repr(name)
    ours, theirs = [n for n in classes if n in names], list(dict.fromkeys(n for n in names if n in classes))
    if ours != theirs:
        first = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        yield "class-order", f"{theirs[first]!r} in the file where the config has {ours[first]!r}"


def check_box(ann: dict, image: dict) -> Found:
    """Box and area, as CocoDataset.parse_data_info judges them."""
    x, y, w, h = ann["bbox"]
    width, height = image["width"], image["height"]
    if not isfinite(x + y + w + h + ann["area"]):
        yield "not-finite", f"bbox {ann['bbox']}, area {ann['area']}"
    elif w < 1 or h < 1:
        yield "box-empty", f"bbox {ann['bbox']}"
    elif x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        yield "box-outside", f"bbox {ann['bbox']} in {width} x {height}"
    elif min(x, y) < -EDGE or x + w > width + EDGE or y + h > height + EDGE:
        yield "box-over-edge", f"bbox {ann['bbox']} in {width} x {height}"
    if ann["area"] <= 0:
        yield "area-empty", f"area {ann['area']}"


def check_marks(ann: dict) -> Found:
    """The marks for crowds and for what is to be ignored."""
    if ann.get("iscrowd") not in (0, 1):
        yield "iscrowd", f"iscrowd is {ann['iscrowd']!r:.40}" if "iscrowd" in ann else "it is missing"
    if ann.get("ignore"):
        yield "ignore", ""


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
    try:
        parts = [[*map(float, part)] for part in parts]
    except (
        TypeError,
        ValueError,
        OverflowError,
    ):  # numbers where lists are expected, or lists or words where numbers are
        yield "mask-malformed", repr(parts)[:40]
        return
    outer = [f(part) for part in parts if part for f in (min, max)]
    if not isfinite(sum(map(sum, parts))) or any(abs(number) > FAR for number in outer):
        yield "polygon-not-finite", repr(parts)[:40]
        return
    good = [part for part in parts if len(part) >= 6 and len(part) % 2 == 0]
    if len(good) < len(parts):
        yield "polygon-part", f"{len(parts) - len(good)} of {len(parts)}"
    if good and not any(_covers(part, image["width"], image["height"]) for part in good):
        yield "mask-empty", f"polygon {good[0]}"[:60]


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
    if not counts:
        yield "rle-runs", f"counts is {counts!r}"
        return
    try:
        if isinstance(counts, str):  # back into a list of runs
            counts = _runs(counts)
        total = sum(counts)
        negative = min(counts) < 0
    except (TypeError, ValueError, IndexError):
        yield "mask-malformed", f"counts {counts!r:.40}"
        return
    if negative or total > size[0] * size[1]:
        yield "mask-malformed", f"runs of {total} pixels in {size}"
    elif total < size[0] * size[1]:
        yield "rle-runs", f"runs of {total} pixels in {size}"
    elif not sum(counts[1::2]):
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
    if shift:
        raise ValueError("the last run is cut short")
    return runs
