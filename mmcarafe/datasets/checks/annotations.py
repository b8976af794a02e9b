# SPDX-License-Identifier: Apache-2.0
"""Checks of the entries of a COCO annotation file; the kinds of what they find are in kinds.csv.

Checks are generators of pairs: the name of a kind, and what the reader needs to see of it.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from math import isfinite
from typing import NamedTuple

Found = Iterator[tuple[str, str]]

MAX_INT = 2**63
EDGE = 1.0  # px by which boxes may leave the image by rounding
ENTRY = dict(images="image", categories="category", annotations="annotation")


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
        """Note what a check found, and return whether there was anything."""
        image, ann, noted = image or {}, ann or {}, False
        for kind, detail in found:
            name = image.get("file_name")
            name = name if isinstance(name, str) else None  # what else it is, the detail says
            self[kind].append(Example(name, image.get("id", ann.get("image_id")), ann.get("id"), detail))
            noted = True
        return noted


def _is_number(value: object) -> bool:
    """Tell numbers from what is none: a bool, or an integer that no float holds."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= MAX_INT)


def _is_size(value: object) -> bool:
    return _is_number(value) and 1 <= value < 2**31


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return _is_text(value) or _is_number(value)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


FIELDS = {
    "images": dict(id=_is_id, file_name=_is_text, height=_is_size, width=_is_size),
    "categories": dict(id=_is_id, name=_is_text),
    "annotations": dict(id=_is_id, image_id=_is_id, category_id=_is_id, bbox=_is_box, area=_is_number),
}


def check_fields(entry: object, part: str) -> Found:
    """Find fields that are missing or of a wrong type in an entry of images, annotations or categories."""
    if not isinstance(entry, dict):
        yield "field", f"{part} has {entry!r:.40}, not an object with fields"
        return
    for name, right in FIELDS[part].items():
        if name not in entry:
            yield "field", f"{part}: {name} is missing"
        elif not right(entry[name]):
            yield "field", f"{part}: {name} is {entry[name]!r:.40}"


def _repeated(values: Iterable[Hashable]) -> Iterator[tuple[Hashable, str]]:
    """Yield the values that occur more than once, and how often."""
    return ((value, f"{times} times") for value, times in Counter(values).items() if times > 1)


def check_ids(entries: list[dict], part: str) -> Found:
    """Find ids that occur twice, and those of another kind than COCO's, which are integers from 1."""
    ids = [entry["id"] for entry in entries]
    for number, times in _repeated(ids):
        yield f"{ENTRY[part]}-id-twice", f"id {number!r} {times}"
    if part != "annotations" and len({isinstance(number, str) for number in ids}) > 1:
        yield "id-mixed", part
    for number in ids:
        if not isinstance(number, int):
            yield "annotation-id-type" if part == "annotations" else "id-type", f"id {number!r} of {part}"
        elif number == 0 and part == "annotations":
            yield "annotation-id-0", ""


def check_file_names(images: list[dict]) -> Found:
    """Find files that are the image of several entries."""
    for name, times in _repeated(image["file_name"] for image in images):
        yield "image-file-twice", f"{name} {times}"


def check_categories(categories: list[dict], classes: tuple[str, ...] | None) -> Found:
    """Compare the file's categories among themselves and with a config's classes."""
    names = [category["name"] for category in categories]
    for name, times in _repeated(names):
        yield "category-name-twice", f"{name!r} {times}"
    if classes is None:
        return
    names = list(dict.fromkeys(names))
    yield from (("category-not-in-config", repr(name)) for name in names if name not in classes)
    yield from (("class-not-in-file", repr(name)) for name in classes if name not in names)
    ours, theirs = [n for n in classes if n in names], [n for n in names if n in classes]
    for our, their in zip(ours, theirs, strict=False):
        if our != their:
            yield "class-order", f"{their!r} in the file where the config has {our!r}"
            return


def check_box(ann: dict, image: dict) -> Found:
    """Find boxes and areas that CocoDataset.parse_data_info drops or mistakes."""
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
    """Find marks for crowds that are none, and objects that are to be ignored."""
    if ann.get("iscrowd") not in (0, 1):
        yield "iscrowd", f"iscrowd is {ann['iscrowd']!r:.40}" if "iscrowd" in ann else "it is missing"
    if ann.get("ignore"):
        yield "ignore", ""
