# SPDX-License-Identifier: Apache-2.0
"""Checks of the images of a COCO annotation file: as entries, and as files read by the pipeline's reader."""

import os
import struct
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from mmcv.transforms import LoadImageFromFile
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from mmcarafe.datasets.checks.findings import Findings, Found
from mmcarafe.datasets.checks.settings import Settings
from mmcarafe.datasets.images import leaves_no_pixel

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
    """Find what filter_cfg, Resize and RandomFlip lose or refuse of an image of its size and objects."""
    size = (image["width"], image["height"])
    detail = f"{size[0]} x {size[1]}"
    small = min(size) < settings.min_size
    if not anns:
        yield "image-empty", ""
    elif small:
        yield "image-below-min-size", f"{detail}, {len(anns)} objects"
    elif all(ann.get("iscrowd") for ann in anns):
        yield "image-crowd-only", f"{len(anns)} crowds"
    if settings.scale and leaves_no_pixel(size, settings.scale):
        yield "image-thin", detail
    if size[0] == 1 and settings.flips_unresized and not small:
        yield "image-one-wide", detail


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


def check_file(path: Path, image: dict, loader: LoadImageFromFile) -> Found:
    """Read an image file as the pipeline does, and find what is lost or refused of it."""
    if not os.path.isfile(path):  # unlike Path.is_file, also where the name is too long
        yield "image-missing", str(path)
        return
    width, height = 0, 0
    try:
        with Image.open(path) as header:
            width, height = header.size
            # Pillow gives the upright size of a TIFF
            if (yield from _check_header(header)) in SIDEWAYS and header.format != "TIFF":
                width, height = height, width
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, struct.error):
        pass  # not for Pillow, or EXIF that is cut off; the pipeline's own reader decides
    if width * height > MAX_PIXELS:
        yield "image-too-large", f"{width} x {height}"
        return
    if width * height > LARGE_PIXELS:
        yield "image-large", f"{width} x {height}"
    else:
        try:
            height, width = loader(dict(img_path=str(path)))["ori_shape"]
        except (cv2.error, AssertionError, OSError, ValueError):  # no bytes, no image, and Pillow's
            yield "image-unreadable", f"{path.stat().st_size} bytes"
            return
    if (width, height) != (image["width"], image["height"]):
        yield "image-size", f"{width} x {height}, not {image['width']} x {image['height']}"


def _check_header(header: Image.Image) -> Generator[tuple[str, str], None, int]:
    """Find what the pipeline's reader changes; return the orientation of EXIF."""
    # the method of PNG images would decode them
    if (orientation := Image.Image.getexif(header).get(ORIENTATION, 1)) != 1:
        yield "image-rotated", f"orientation {orientation}"
    modes = [tile[3] if isinstance(tile[3], str) else tile[3] and tile[3][0] for tile in header.tile]
    if any("16" in str(mode) for mode in modes):
        yield "image-16-bit", header.mode
    for kind, modes in MODES.items():
        if header.mode in modes or (kind == "image-alpha" and "transparency" in header.info):
            yield kind, header.mode
    return orientation
