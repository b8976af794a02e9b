# SPDX-License-Identifier: Apache-2.0
"""Checks of the images of a COCO annotation file: as entries, and as files read by the pipeline's reader."""

from pathlib import Path

import cv2
from mmcv.transforms import LoadImageFromFile
from PIL import Image, UnidentifiedImageError

from mmcarafe.datasets.checks.annotations import Found
from mmcarafe.datasets.checks.settings import Settings
from mmcarafe.datasets.transforms import leaves_no_pixel

MAX_PIXELS = 2**30  # OpenCV's OPENCV_IO_MAX_IMAGE_PIXELS
LARGE_PIXELS = 50 * 10**6
ORIENTATION = 0x0112  # EXIF
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
MODES = {
    "image-cmyk": ("CMYK",),
    "image-grey": ("1", "L", "I", "I;16", "I;16B", "LA"),
    "image-alpha": ("LA", "RGBA", "PA"),
}


def check_image_entry(image: dict, anns: list[dict], settings: Settings) -> Found:
    """What filter_cfg, Resize and RandomFlip make of an image of its size and objects."""
    size = (image["width"], image["height"])
    detail = f"{size[0]} x {size[1]}"
    small = min(size) < settings.min_size
    if not anns:
        yield "image-empty", ""
    elif small:
        yield "image-below-min-size", f"{detail}, {len(anns)} objects"
    elif all(ann.get("iscrowd") for ann in anns):
        yield "image-crowd-only", f"{len(anns)} crowds"
    if min(size) < 1:
        return
    if settings.scale and leaves_no_pixel(size, settings.scale):
        yield "image-thin", detail
    if size[0] == 1 and settings.flips_unresized and not small:
        yield "image-one-wide", detail


def check_file(path: Path, image: dict, loader: LoadImageFromFile) -> Found:
    """An image file, as the pipeline reads it."""
    try:
        found = path.is_file()
    except OSError:  # a name that is too long, or a folder that may not be entered
        found = False
    if not found:
        yield "image-missing", str(path)
        return
    size = None
    try:
        with Image.open(path) as header:
            size, orientation = header.size, _orientation(header)
            yield from _check_header(header)
            if orientation in SIDEWAYS:
                size = size[::-1]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        pass  # not for Pillow; the pipeline's own reader decides
    pixels = size[0] * size[1] if size else 0
    if pixels > MAX_PIXELS:
        yield "image-too-large", f"{size[0]} x {size[1]}"
        return
    if pixels > LARGE_PIXELS:
        yield "image-large", f"{size[0]} x {size[1]}"
    else:
        try:
            size = loader(dict(img_path=str(path)))["ori_shape"][::-1]
        except (cv2.error, AssertionError, OSError, ValueError):  # no bytes, no image, and Pillow's
            yield "image-unreadable", f"{path.stat().st_size} bytes"
            return
    if size != (image["width"], image["height"]):
        yield "image-size", f"{size[0]} x {size[1]}, not {image['width']} x {image['height']}"


def _orientation(header: Image.Image) -> int:
    """That of EXIF; the method of PNG images would decode them."""
    return Image.Image.getexif(header).get(ORIENTATION, 1)


def _check_header(header: Image.Image) -> Found:
    if (orientation := _orientation(header)) != 1:
        yield "image-rotated", f"orientation {orientation}"
    if "16" in str([tile[3] for tile in header.tile]):
        yield "image-16-bit", header.mode
    for kind, modes in MODES.items():
        if header.mode in modes or (kind == "image-alpha" and "transparency" in header.info):
            yield kind, header.mode
