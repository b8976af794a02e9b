# SPDX-License-Identifier: Apache-2.0
"""Find everything in a COCO data set that would stop training or evaluation, or lose objects, at once.

Exit status: 0 where nothing is lost or refused, 1 where something is, 2 for wrong use.

Examples::

    python tools/check_dataset.py data/coco/annotations/instances_train2017.json --img-dir data/coco/train2017
    python tools/check_dataset.py ANN_FILE --img-dir DIR --config CONFIG --out report.json
    python tools/check_dataset.py ANN_FILE --no-images
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from common import InputError, add_cfg_options, run
from dataset_checks import (
    Findings,
    check_box,
    check_categories,
    check_fields,
    check_file_names,
    check_ids,
    check_marks,
)
from dataset_images import check_file, check_image_entry
from dataset_kinds import KINDS
from dataset_masks import check_mask
from dataset_report import as_json, table
from dataset_settings import Settings, read_settings
from PIL import Image
from rich.console import Console
from rich.progress import track

PARTS = ("images", "categories", "annotations")


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Find all that is wrong with a COCO data set")
    parser.add_argument("ann_file", help="COCO annotations")
    parser.add_argument("--img-dir", help="folder that file_name starts from")
    parser.add_argument("--config", help="whose classes, filters and transforms count; default: COCO's")
    parser.add_argument("--no-images", action="store_true", help="check the annotations alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that read images")
    parser.add_argument("--out", help="JSON file for all that is found")
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.no_images == bool(args.img_dir):
        parser.error("expected either --img-dir with the images' folder or --no-images")
    if args.threads < 1:
        parser.error("--threads: expected 1 or more")
    return parser, args


def read_annotations(name: str) -> dict[str, list]:
    """The three lists of a COCO file; InputError where it is none."""
    path = Path(name)
    if not path.is_file():
        raise InputError(f"annotation file {name} does not exist")
    try:
        with path.open() as file:  # as pycocotools does, which takes no other encoding
            data = json.load(file)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8: {error}; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{name} is not COCO: expected an object with images and categories")
    for part, empty in (("images", None), ("categories", None), ("annotations", [])):
        if not isinstance(data.get(part, empty), list):
            raise InputError(f"{name} is not COCO: expected a list called {part}")
    return {part: data.get(part, []) for part in PARTS}


def check_out(name: str, ann_file: str) -> None:
    """InputError unless a report can be written, before the work it is of."""
    try:
        with open(name, "a"):
            pass
        same = Path(name).samefile(ann_file)
    except OSError as error:
        raise InputError(
            f"--out {name} cannot be written ({error.strerror}): expected a JSON file"
        ) from error
    if same:
        raise InputError(f"--out {name} is the annotation file: name another one")


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


def main(args: argparse.Namespace) -> int:
    """Check and report; returns the exit status."""
    settings = Settings()
    if args.config:
        settings = read_settings(args.config, args.cfg_options, args.ann_file)
    if args.img_dir and not Path(args.img_dir).is_dir():
        raise InputError(f"--img-dir {args.img_dir} is no folder")
    data = read_annotations(args.ann_file)
    if args.out:
        check_out(args.out, args.ann_file)
    found, images = check_annotations(data, settings)
    if args.img_dir:
        check_images(Path(args.img_dir), images, settings, args.threads, found)
    errors = [kind for kind in found if KINDS[kind].severity == "error"]
    sys.stdout.reconfigure(errors="backslashreplace")  # names that its encoding lacks
    console = Console(width=120, markup=False, highlight=False)
    if args.config:
        print(f"{args.config}: {settings.source}")
    if found:
        console.print(table(found))
    counts = ", ".join(f"{len(entries)} {part}" for part, entries in data.items())
    total = sum(len(found[kind]) for kind in errors)
    print(f"{counts}: {total} errors of {len(errors)} kinds, {len(found) - len(errors)} kinds of notes")
    if args.out:
        Path(args.out).write_text(as_json(found))
    return 1 if errors else 0


def command() -> None:
    """Run the tool; wrong use exits with status 2, which leaves 1 to what is found."""
    parser, args = parse_args()
    try:
        status = main(args)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    raise SystemExit(status)


if __name__ == "__main__":
    run(command)
