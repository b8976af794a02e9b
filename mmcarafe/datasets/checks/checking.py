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
    """All that the annotation file alone shows, and its images whose entries can be used."""
    found, sound = Findings(), {}
    found.add(settings.problems)
    for part, entries in data.items():
        sound[part] = []
        for entry in entries:
            known = dict(images="image", annotations="ann").get(part) if isinstance(entry, dict) else None
            if not found.add(check_fields(entry, part), **({known: entry} if known else {})):
                sound[part].append(entry)
        found.add(check_ids(sound[part], part))
    found.add(check_file_names(sound["images"]))
    found.add(check_categories(sound["categories"], settings.classes))
    images = {image["id"]: image for image in sound["images"]}
    categories = {category["id"] for category in sound["categories"]}
    objects = defaultdict(list)
    for ann in track(sound["annotations"], "annotations", transient=True):
        image = images.get(ann["image_id"])
        if image is None:
            found.add([("image-unknown", "")], ann=ann)
            continue
        objects[image["id"]].append(ann)
        if ann["category_id"] not in categories:
            found.add([("category-unknown", f"category_id {ann['category_id']!r}")], image, ann)
        found.add(check_box(ann, image), image, ann)
        found.add(check_marks(ann), image, ann)
        if settings.with_mask:
            found.add(check_mask(ann, image, settings.poly2mask), image, ann)
    for image in images.values():
        found.add(check_image_entry(image, objects[image["id"]], settings), image)
    if not images:
        found.add([("no-images", "")])
    elif not trains(images, objects, sound["categories"], settings):
        found.add([("nothing-to-train", f"{len(images)} images")])
    return found, sound["images"]


def trains(
    images: dict, objects: dict[object, list[dict]], categories: list[dict], settings: Settings
) -> bool:
    """Whether CocoDataset.filter_data leaves an image."""
    known = {c["id"] for c in categories if settings.classes is None or c["name"] in settings.classes}
    return any(
        min(image["width"], image["height"]) >= settings.min_size
        and (not settings.filter_empty or any(ann["category_id"] in known for ann in objects[image["id"]]))
        for image in images.values()
    )


def check_images(folder: Path, images: list[dict], settings: Settings, threads: int, found: Findings) -> None:
    """Read all images of the file and add what is wrong with them."""
    Image.MAX_IMAGE_PIXELS = None  # Pillow reads headers only
    # the table names what OpenCV cannot read
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def check(image: dict) -> list[tuple[str, str]]:
        return list(check_file(folder / image["file_name"], image, settings.loader))

    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(check, images)
        for image, result in zip(
            images, track(results, "images", total=len(images), transient=True), strict=True
        ):
            found.add(result, image)
