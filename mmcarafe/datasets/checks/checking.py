# SPDX-License-Identifier: Apache-2.0
"""Checks of a whole COCO data set: its annotations, then its images."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from PIL import Image
from rich.progress import track

from mmcarafe.datasets.checks.annotations import (
    Findings,
    check_box,
    check_categories,
    check_fields,
    check_file_names,
    check_ids,
    check_marks,
)
from mmcarafe.datasets.checks.images import check_file, check_image_entry
from mmcarafe.datasets.checks.masks import check_mask
from mmcarafe.datasets.checks.settings import Settings


def check_annotations(data: dict[str, list], settings: Settings) -> tuple[Findings, list[dict]]:
    """Find all that the annotation file alone shows; return it, and the images whose entries can be used."""
    found, sound = Findings(), {part: [] for part in data}
    found.add(settings.problems)
    for part, entries in data.items():
        for entry in entries:
            fields = entry if isinstance(entry, dict) else {}
            where = dict(images=(fields, None), annotations=(None, fields)).get(part, ())
            if not found.add(check_fields(entry, part), *where):
                sound[part].append(entry)
        found.add(check_ids(sound[part], part))
    found.add(check_file_names(sound["images"]))
    found.add(check_categories(sound["categories"], settings.classes))
    images = {image["id"]: image for image in sound["images"]}
    names = {category["id"]: category["name"] for category in sound["categories"]}
    objects = defaultdict(list)  # of each image
    for ann in track(sound["annotations"], "annotations", transient=True):
        image = images.get(ann["image_id"])
        if image is None:
            found.add([("image-unknown", "")], None, ann)
            continue
        objects[image["id"]].append(ann)
        if ann["category_id"] not in names:
            found.add([("category-unknown", f"category_id {ann['category_id']!r}")], image, ann)
        found.add(check_box(ann, image), image, ann)
        found.add(check_marks(ann), image, ann)
        if settings.with_mask:
            found.add(check_mask(ann, image, settings.poly2mask), image, ann)
    for image in images.values():
        found.add(check_image_entry(image, objects[image["id"]], settings), image)
    known = {number for number, name in names.items() if settings.classes is None or name in settings.classes}
    if not images:
        found.add([("no-images", "")])
    elif not any(  # left by CocoDataset.filter_data
        min(image["width"], image["height"]) >= settings.min_size
        and (not settings.filter_empty or any(ann["category_id"] in known for ann in objects[image["id"]]))
        for image in images.values()
    ):
        found.add([("nothing-to-train", f"{len(images)} images")])
    return found, sound["images"]


def check_images(folder: Path, images: list[dict], settings: Settings, threads: int, found: Findings) -> None:
    """Read all images of the file and add what is wrong with them."""
    Image.MAX_IMAGE_PIXELS = None  # Pillow reads headers only
    # the table names what OpenCV cannot read
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def check(image: dict) -> list[tuple[str, str]]:
        return list(check_file(folder / image["file_name"], image, settings.loader))

    with ThreadPoolExecutor(threads) as pool:
        results = track(pool.map(check, images), "images", total=len(images), transient=True)
        for image, result in zip(images, results, strict=True):
            found.add(result, image)
