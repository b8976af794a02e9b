# SPDX-License-Identifier: Apache-2.0
"""Checks of a COCO annotation file; the kinds of what they find are in kinds.csv."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from math import isfinite

from rich.progress import track

from mmcarafe.datasets.checks.findings import Findings, Found
from mmcarafe.datasets.checks.images import check_image_entry
from mmcarafe.datasets.checks.masks import check_mask
from mmcarafe.datasets.checks.settings import Settings

MAX_INT = 2**63
EDGE = 1.0  # px by which boxes may leave the image by rounding
ENTRY = dict(images="image", categories="category", annotations="annotation")


def check_annotations(data: dict[str, list], settings: Settings) -> tuple[Findings, list[dict]]:
    """Find all that the annotation file alone shows; return it, and the images whose entries can be used."""
    found, sound = Findings(), {part: [] for part in data}
    found.add(settings.problems)
    for part, entries in data.items():
        for entry in entries:
            fields = entry if isinstance(entry, dict) else {}
            where = dict(images=(fields, None), annotations=(None, fields)).get(part, ())
            if not found.add(_check_fields(entry, part), *where):
                sound[part].append(entry)
        found.add(_check_ids(sound[part], part))
    for name, times in _repeated(image["file_name"] for image in sound["images"]):
        found.add([("image-file-twice", f"{name} {times}")])
    found.add(_check_categories(sound["categories"], settings.classes))
    images = {image["id"]: image for image in sound["images"]}
    categories = {category["id"] for category in sound["categories"]}
    objects = defaultdict(list)  # of each image
    for ann in track(sound["annotations"], "annotations", transient=True):
        image = images.get(ann["image_id"])
        if image is None:
            found.add([("image-unknown", "")], None, ann)
            continue
        objects[image["id"]].append(ann)
        found.add(_check_object(ann, image, categories), image, ann)
        if settings.with_mask:
            found.add(check_mask(ann, image, settings.poly2mask), image, ann)
    for image in images.values():
        found.add(check_image_entry(image, objects[image["id"]], settings), image)
    if settings.classes is not None:
        categories = {c["id"] for c in sound["categories"] if c["name"] in settings.classes}
    left = (  # by CocoDataset.filter_data
        image
        for image in images.values()
        if min(image["width"], image["height"]) >= settings.min_size
        if not settings.filter_empty or any(a["category_id"] in categories for a in objects[image["id"]])
    )
    if next(left, None) is None:
        found.add([("nothing-to-train", f"{len(images)} images") if images else ("no-images", "")])
    return found, sound["images"]


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


def _check_fields(entry: object, part: str) -> Found:
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


def _check_ids(entries: list[dict], part: str) -> Found:
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


def _check_categories(categories: list[dict], classes: tuple[str, ...] | None) -> Found:
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


def _check_object(ann: dict, image: dict, categories: set[Hashable]) -> Found:
    """Find boxes, areas and marks that CocoDataset.parse_data_info or pycocotools drops or mistakes."""
    if ann["category_id"] not in categories:
        yield "category-unknown", f"category_id {ann['category_id']!r}"
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
    if ann.get("iscrowd") not in (0, 1):
        yield "iscrowd", f"iscrowd is {ann['iscrowd']!r:.40}" if "iscrowd" in ann else "it is missing"
    if ann.get("ignore"):
        yield "ignore", ""
