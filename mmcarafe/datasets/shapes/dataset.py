# SPDX-License-Identifier: Apache-2.0
"""Make a small instance segmentation data set in COCO's layout.

The pictures show disks, stars, rings, crescents, gears and waves that hide one another; what
tells the classes apart is their boundary.  The same arguments give the same bytes::

    python tools/dataset_tools/make_shapes_dataset.py data/shapes

writes ``annotations/instances_{train,val}2017.json``, ``train2017/`` and ``val2017/``.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mmcarafe.datasets.shapes.drawing import CLASSES, PALETTE, draw_scene

__all__ = ["CLASSES", "PALETTE", "is_complete", "make_dataset"]

SPLITS = ("train", "val")
MAKER = "mmcarafe make_shapes_dataset"
VERSION = "1"  # raised whenever the same arguments give other bytes
MIN_SIZE, MAX_SIZE = 64, 1024
MAX_COUNT = 10**6
TRACE_SCALE = 8  # outlines are traced on a grid this much finer
TRACE_SLACK = 0.55  # px by which a polygon may leave the outline of its mask
MIN_POLYGON_IOU = 0.95  # a polygon that fits worse is stored as RLE


def _trace(mask: np.ndarray) -> list[float] | None:
    """The outline of a mask, uint8 [H, W], as flat x, y in pixels; None where it takes an RLE."""
    x, y, w, h = cv2.boundingRect(mask)
    wide = (w * TRACE_SCALE, h * TRACE_SCALE)
    fine = cv2.resize(mask[y : y + h, x : x + w], wide, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if len(contours) != 1:  # several parts, or a hole
        return None
    points = cv2.approxPolyDP(contours[0], TRACE_SLACK * TRACE_SCALE, True).reshape(-1, 2)
    if len(points) < 3:
        return None
    # OpenCV names the middles of pixels, COCO measures from the corner of the first one.
    polygon = np.round((points + 0.5) / TRACE_SCALE + (x, y), 2).ravel().tolist()
    drawn = coco_mask.decode(coco_mask.frPyObjects([polygon], *mask.shape))[..., 0]
    iou = (drawn & mask).sum() / (drawn | mask).sum()
    return polygon if iou >= MIN_POLYGON_IOU else None


def _annotation(mask: np.ndarray, label: int, image_id: int, ann_id: int) -> dict:
    """COCO's record of one object from its visible mask, bool [H, W]."""
    mask = mask.astype(np.uint8)
    x, y, w, h = cv2.boundingRect(mask)
    polygon = _trace(mask)
    if polygon:
        segmentation: list | dict = [polygon]
    else:
        rle = coco_mask.encode(np.asfortranarray(mask))
        segmentation = {"counts": rle["counts"].decode("ascii"), "size": list(mask.shape)}
    return {
        "area": int(mask.sum()),
        "bbox": [x, y, w, h],
        "category_id": label + 1,
        "id": ann_id,
        "image_id": image_id,
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def _info(train: int, val: int, size: int, seed: int) -> dict:
    """What the annotation files record of how they were made; no date, for the same bytes."""
    return {
        "contributor": MAKER,
        "description": "Shapes with fine boundaries, drawn for instance segmentation",
        "seed": seed,
        "size": size,
        "train": train,
        "val": val,
        "version": VERSION,
    }


def _write_split(root: Path, split: str, info: dict) -> None:
    """Writes the pictures of one split and its annotation file under ``root``."""
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    images, annotations = [], []
    size = info["size"]
    # disable=None: a bar on a terminal, nothing in a log file.
    for index in tqdm(range(info[split]), desc=split, unit="image", disable=None):
        # Own numbers for every picture: it stays the same however many there are.
        rng = np.random.default_rng([info["seed"], SPLITS.index(split), index])
        picture, objects = draw_scene(rng, size)
        image_id = index + 1
        name = f"{image_id:012d}.png"
        _, png = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        (folder / name).write_bytes(png.tobytes())
        images.append({"file_name": name, "height": size, "id": image_id, "license": 1, "width": size})
        for label, mask in objects:
            annotations.append(_annotation(mask, label, image_id, len(annotations) + 1))
    content = {
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASSES, 1)
        ],
        "images": images,
        "info": info,
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
    }
    path = _annotation_file(root, split)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n")


def _annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2017.json"


def _read(root: Path, split: str) -> dict:
    """An annotation file, or an empty dict where there is none that can be read."""
    try:
        content = json.loads(_annotation_file(root, split).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("info"), dict) else {}


def is_complete(
    out_dir: str | Path, train: int = 800, val: int = 200, size: int = 160, seed: int = 0
) -> bool:
    """Whether ``out_dir`` holds the whole data set that these arguments make."""
    root, info = Path(out_dir), _info(train, val, size, seed)
    return all(
        _read(root, split).get("info") == info
        and len(list((root / f"{split}2017").glob("*.png"))) == info[split]
        for split in SPLITS
    )


def _is_ours(root: Path) -> bool:
    """Whether this tool made everything in a folder, so that nothing else is lost with it."""
    if not any(_read(root, split).get("info", {}).get("contributor") == MAKER for split in SPLITS):
        return False
    ours = {_annotation_file(root, split) for split in SPLITS}
    pictures = {root / f"{split}2017" for split in SPLITS}
    return all(
        path in ours | pictures | {root / "annotations"}
        or (path.parent in pictures and path.suffix == ".png" and path.is_file())
        for path in root.rglob("*")
    )


def _check_target(root: Path, force: bool) -> None:
    """Raises FileExistsError where ``root`` holds what must not be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    if not root.is_dir():
        raise FileExistsError(f"{root} is a file; name another folder.")
    if not _is_ours(root):
        raise FileExistsError(
            f"{root} holds files that this tool did not write and is left as it is; name another folder."
        )
    if not force:
        raise FileExistsError(
            f"{root} holds a data set made with other arguments or an incomplete one; "
            "replace it with --force or name another folder."
        )


def make_dataset(
    out_dir: str | Path,
    train: int = 800,
    val: int = 200,
    size: int = 160,
    seed: int = 0,
    *,
    force: bool = False,
) -> Path:
    """Make the data set, unless it is already there.

    Args:
        out_dir: the folder to make; it appears only once everything in it is written.
        train: training pictures.
        val: validation pictures; none of them is a training picture.
        size: width and height of the pictures, in pixels.
        seed: 0 or above; another seed draws other pictures.
        force: make it again and replace a data set that this tool made.

    Returns:
        The folder, as an absolute path.

    Raises:
        ValueError: an argument is out of its range.
        FileExistsError: the folder holds something else.
        OSError: the folder can't be written.
    """
    for name, count in (("train", train), ("val", val)):
        if not 0 <= count <= MAX_COUNT:
            raise ValueError(f"{name} must be 0 to {MAX_COUNT}, not {count}.")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, not {size}.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or above, not {seed}.")
    root = Path(out_dir).resolve()
    if not force and is_complete(root, train, val, size, seed):
        return root
    _check_target(root, force)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        # One level down: the temporary folder itself can't be read by others.
        made, old = Path(scratch) / "made", Path(scratch) / "old"
        for split in SPLITS:
            _write_split(made, split, _info(train, val, size, seed))
        if root.exists():
            root.rename(old)
        try:
            made.rename(root)
        finally:
            if old.exists() and not root.exists():
                old.rename(root)
    return root


def summary(root: Path) -> str:
    """Describe a data set in a line: pictures, objects of every class, and where it is."""
    contents = [_read(root, split) for split in SPLITS]
    pictures = " + ".join(str(len(content["images"])) for content in contents)
    counts = Counter(ann["category_id"] for content in contents for ann in content["annotations"])
    objects = ", ".join(f"{counts[i]} {name}" for i, name in enumerate(CLASSES, 1))
    return f"{pictures} images ({' + '.join(SPLITS)}), objects: {objects}, in {root}"
