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
    """Find all that the annotation file alone shows; return it, and the images whose entries can be used.

    Of an entry with a field that cannot be used, what depends on the others is checked all the same.
    """
    found, entries, fields = Findings(), {part: [] for part in data}, Fields()
    found.add(settings.problems)
    for part, given in data.items():
        for entry in given:
            one = entry if isinstance(entry, dict) else {}
            where = dict(images=(one, None), annotations=(None, one)).get(part, ())
            found.add(_check_fields(entry, part, fields), *where)
            if isinstance(entry, dict):
                entries[part].append(entry)
        found.add(_check_ids([entry for entry in entries[part] if fields.usable(entry, "id")], part))
    for name, times in _repeated(i["file_name"] for i in entries["images"] if fields.usable(i, "file_name")):
        found.add([("image-file-twice", f"{name} {times}")])
    images = {image["id"]: image for image in entries["images"] if fields.usable(image, "id")}
    categories = {c["id"]: c.get("name") for c in entries["categories"] if fields.usable(c, "id")}
    used = Counter(a["category_id"] for a in entries["annotations"] if fields.usable(a, "category_id"))
    names = [category["name"] for category in entries["categories"] if fields.usable(category, "name")]
    objects_of_name = Counter()
    for number, name in categories.items():
        objects_of_name[name if isinstance(name, str) else None] += used[number]
    found.add(_check_categories(names, settings.classes, objects_of_name))
    objects = defaultdict(list)  # of each image
    for ann in track(entries["annotations"], "annotations", transient=True):
        image = images.get(ann["image_id"]) if fields.usable(ann, "image_id") else None
        if image is None:
            found.add([("image-unknown", "")] if fields.usable(ann, "image_id") else [], None, ann)
            continue
        objects[image["id"]].append(ann)
        sized = fields.usable(image, "width", "height")
        found.add(_check_object(ann, image if sized else None, categories, fields), image, ann)
        if settings.with_mask and sized:
            found.add(check_mask(ann, image, settings.poly2mask), image, ann)
    sized = [image for image in images.values() if fields.usable(image, "width", "height")]
    if corners := _corners(sized, objects, fields):
        found.pop("box-over-edge", None)  # as which they were taken
        found.add([("box-corners", corners)])
    for image in sized:
        found.add(check_image_entry(image, objects[image["id"]], settings), image)
    # an entry that cannot be used is a problem of its own
    if all(
        isinstance(image, dict) and fields.usable(image, "id", "width", "height") for image in data["images"]
    ):
        left = (image for image in sized if _trained(image, objects[image["id"]], settings, categories))
        if next(left, None) is None:
            found.add([("nothing-to-train", f"{len(images)} images") if images else ("no-images", "")])
    return found, [image for image in entries["images"] if fields.usable(image, *FIELDS["images"])]


class Fields(dict[int, set[str]]):
    """The fields of each entry that cannot be used: they are missing, or of a wrong type."""

    def usable(self, entry: dict, *names: str) -> bool:
        """Tell whether an entry has all of these fields, to be used."""
        return not self.get(id(entry), set()).intersection(names)


def _trained(image: dict, objects: list[dict], settings: Settings, categories: dict) -> bool:
    """Tell whether CocoDataset.filter_data leaves an image."""
    if min(image["width"], image["height"]) < settings.min_size:
        return False
    known = [a.get("category_id") for a in objects if isinstance(a.get("category_id"), Hashable)]
    classes = settings.classes
    return not settings.filter_empty or any(
        number in categories and (classes is None or categories[number] in classes) for number in known
    )


def _corners(images: list[dict], objects: dict[Hashable, list], fields: Fields) -> str:
    """Say so where the boxes of a file are two corners: all fit as such, and few as width and height."""
    leave = count = 0
    for image in images:
        width, height = image["width"] + EDGE, image["height"] + EDGE
        for x, y, w, h in (a["bbox"] for a in objects[image["id"]] if fields.usable(a, "bbox")):
            if not (0 <= x < w <= width and 0 <= y < h <= height):
                return ""
            count += 1
            leave += x + w > width or y + h > height
    return f"{leave} of {count} would leave their images, none does as corners" if leave > count / 2 else ""


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


def _check_fields(entry: object, part: str, fields: Fields) -> Found:
    """Find fields that are missing or of a wrong type in an entry of images, annotations or categories."""
    if not isinstance(entry, dict):
        yield "field", f"{part} has {entry!r:.40}, not an object with fields"
        return
    for name, right in FIELDS[part].items():
        if name not in entry:
            yield "field", f"{part}: {name} is missing"
        elif not right(entry[name]):
            yield "field", f"{part}: {name} is {entry[name]!r:.40}"
        else:
            continue
        fields.setdefault(id(entry), set()).add(name)


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


def _check_categories(names: list[str], classes: tuple[str, ...] | None, objects: dict[str, int]) -> Found:
    """Compare the file's categories, of which each has so many objects, with a config's classes."""
    for name, times in _repeated(names):
        yield "category-name-twice", f"{name!r} {times}"
    if classes is None:
        return
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in classes and objects[name]:  # some exports have one for the whole data set, unused
            yield "category-not-in-config", f"{name!r}, {objects[name]} objects"
    yield from (("class-not-in-file", repr(name)) for name in classes if name not in names)
    ours, theirs = [n for n in classes if n in names], [n for n in names if n in classes]
    for our, their in zip(ours, theirs, strict=False):
        if our != their:
            yield "class-order", f"{their!r} in the file where the config has {our!r}"
            return


def _check_object(ann: dict, image: dict | None, categories: dict[Hashable, str], fields: Fields) -> Found:
    """Find boxes, areas and marks that CocoDataset.parse_data_info or pycocotools drops or mistakes."""
    if fields.usable(ann, "category_id") and ann["category_id"] not in categories:
        yield "category-unknown", f"category_id {ann['category_id']!r}"
    if fields.usable(ann, "bbox") and image is not None:
        yield from _check_box(ann["bbox"], image["width"], image["height"])
    if fields.usable(ann, "area"):
        if not isfinite(ann["area"]):
            yield "not-finite", f"area {ann['area']}"
        elif ann["area"] <= 0:
            yield "area-empty", f"area {ann['area']}"
    if ann.get("iscrowd") not in (0, 1):
        yield "iscrowd", f"iscrowd is {ann['iscrowd']!r:.40}" if "iscrowd" in ann else "it is missing"
    if ann.get("ignore"):
        yield "ignore", ""


def _check_box(box: list[float], width: float, height: float) -> Found:
    x, y, w, h = box
    if not isfinite(x + y + w + h):
        yield "not-finite", f"bbox {box}"
    elif w < 1 or h < 1:
        yield "box-empty", f"bbox {box}"
    elif x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        yield "box-outside", f"bbox {box} in {width} x {height}"
    elif min(x, y) < -EDGE or x + w > width + EDGE or y + h > height + EDGE:
        yield "box-over-edge", f"bbox {box} in {width} x {height}"
