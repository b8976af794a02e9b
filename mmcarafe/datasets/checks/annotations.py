# SPDX-License-Identifier: Apache-2.0
"""Checks of a COCO annotation file; what they find is listed in kinds.py.

Checks are generators of pairs: the name of a kind, and what the reader needs to see of it.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from math import isfinite
from typing import NamedTuple

Found = Iterator[tuple[str, str]]

MAX_INT = 2**63
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
            name = name if isinstance(name, str) else None  # what else it is, the detail says
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


def check_file_names(images: list[dict]) -> Found:
    """Files that are the image of several entries."""
    for name, times in Counter(image["file_name"] for image in images).items():
        if times > 1:
            yield "image-file-twice", f"{name} {times} times"


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
