# SPDX-License-Identifier: Apache-2.0
"""Make a small data set for instance segmentation, in COCO's layout, and for semantic segmentation.

The pictures show disks, stars, rings, crescents, gears and waves that hide one another; what
tells the classes apart is their boundary.  The same arguments give the same bytes::

    python tools/dataset_tools/make_shapes_dataset.py data/shapes

writes ``annotations/instances_{train,val}2017.json``, ``train2017/`` and ``val2017/``, and for each picture
a map of the same name in ``semantic/{train,val}2017/``: a PNG of one channel with the class of each pixel, 0
the background and those of ``CLASSES`` from 1.
"""

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mmcarafe.datasets.shapes.drawing import CLASSES, draw_scene

SPLITS = ("train", "val")
INFO = {  # no date, for the same bytes
    "contributor": "mmcarafe make_shapes_dataset",
    "description": "Shapes with fine boundaries, drawn for instance and semantic segmentation",
    "version": "2",  # raised whenever the same arguments give other bytes
}
MIN_SIZE, MAX_SIZE = 64, 1024
MAX_COUNT = 10**6
TRACE_SCALE = 8  # outlines are traced on a grid this much finer
TRACE_SLACK = 0.55  # px by which a polygon may leave the outline of its mask
MIN_POLYGON_IOU = 0.95  # a polygon that fits worse is stored as RLE


def _trace(mask: np.ndarray) -> list[float] | None:
    """Return the outline of a mask, uint8 [H, W], as flat x, y in pixels; None where it takes an RLE."""
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
    return polygon if (drawn & mask).sum() >= MIN_POLYGON_IOU * (drawn | mask).sum() else None


def annotation(mask: np.ndarray, label: int, image_id: int, ann_id: int) -> dict:
    """Return COCO's record of one object from its visible mask, bool [H, W]."""
    mask = mask.astype(np.uint8)
    if polygon := _trace(mask):
        segmentation = [polygon]
    else:
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"]
        segmentation = {"counts": counts.decode("ascii"), "size": list(mask.shape)}
    return {
        "area": int(mask.sum()),
        "bbox": list(cv2.boundingRect(mask)),
        "category_id": label + 1,
        "id": ann_id,
        "image_id": image_id,
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def semantic_map(objects: list[tuple[int, np.ndarray]], size: int) -> np.ndarray:
    """Return the class of each pixel of :func:`.draw_scene`'s objects, uint8 [size, size]; 0: background."""
    classes = np.zeros((size, size), np.uint8)
    for label, mask in objects:
        classes[mask] = label + 1
    return classes


def _write_split(root: Path, split: str, info: dict) -> None:
    """Write the pictures of one split, their maps, and its annotation file under ``root``."""
    folder, maps, file = _paths(root, split)
    for made in (folder, maps):
        made.mkdir(parents=True)
    images, annotations, size = [], [], info["size"]
    # disable=None: a bar on a terminal, nothing in a log file.
    for index in tqdm(range(info[split]), desc=split, unit="image", disable=None):
        # Own numbers for every picture: it stays the same however many there are.
        rng = np.random.default_rng([info["seed"], SPLITS.index(split), index])
        picture, objects = draw_scene(rng, size)
        image_id = index + 1
        name = f"{image_id:012d}.png"
        for place, pixels in ((folder, picture[..., ::-1]), (maps, semantic_map(objects, size))):
            _, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            (place / name).write_bytes(png.tobytes())
        images.append({"file_name": name, "height": size, "id": image_id, "license": 1, "width": size})
        for label, mask in objects:
            annotations.append(annotation(mask, label, image_id, len(annotations) + 1))
    categories = [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASSES, 1)]
    content = {
        "annotations": annotations,
        "categories": categories,
        "images": images,
        "info": info,
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n")


def _paths(root: Path, split: str) -> tuple[Path, Path, Path]:
    """Return the folders of a split's pictures and of their maps, and its annotation file."""
    name = f"{split}2017"
    return root / name, root / "semantic" / name, root / f"annotations/instances_{name}.json"


def _read(file: Path) -> dict:
    """Read an annotation file; one without contents where there is none that can be read."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        content = None
    return content if isinstance(content, dict) and isinstance(content.get("info"), dict) else {"info": {}}


def is_complete(root: Path, info: dict) -> bool:
    """Tell whether ``root`` holds the whole data set that is made of ``info``."""
    return all(
        _read(file)["info"] == info and all(len(list(f.glob("*.png"))) == info[split] for f in folders)
        for split in SPLITS
        for *folders, file in [_paths(root, split)]
    )


def _check_target(root: Path, force: bool) -> None:
    """Raise FileExistsError where ``root`` holds what must not be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    if not root.is_dir():
        raise FileExistsError(f"{root} is a file; name another folder.")
    makers, ours = [], {root / "annotations", root / "semantic"}
    for *folders, file in (_paths(root, split) for split in SPLITS):
        makers.append(_read(file)["info"].get("contributor"))
        pictures = (path for f in folders for path in f.glob("*.png") if path.is_file())
        ours |= {file, *folders, *(path for path in pictures if re.fullmatch(r"\d{12}", path.stem))}
    if INFO["contributor"] not in makers or not ours.issuperset(root.rglob("*")):
        raise FileExistsError(
            f"{root} holds files that this tool did not write and is left as it is; name another folder."
        )
    if not force:
        raise FileExistsError(
            f"{root} holds a data set made with other arguments or an incomplete one; "
            "replace it with --force or name another folder."
        )


def make_dataset(root: Path, train: int, val: int, size: int, seed: int, force: bool = False) -> bool:
    """Make the data set, unless it is already there; return whether it was made.

    ``root`` appears only once everything in it is written. It holds ``train`` and ``val`` other pictures of
    ``size`` x ``size`` pixels; another ``seed`` draws others. With ``force`` it replaces what this tool made.

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
    info = INFO | dict(train=train, val=val, size=size, seed=seed)
    if not force and is_complete(root, info):
        return False
    _check_target(root, force)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        # One level down: the temporary folder itself can't be read by others.
        made, old = Path(scratch) / "made", Path(scratch) / "old"
        for split in SPLITS:
            _write_split(made, split, info)
        if root.exists():
            root.rename(old)
        try:
            made.rename(root)
        finally:
            if old.exists() and not root.exists():
                old.rename(root)
    return True


def summary(root: Path) -> str:
    """Describe a data set in a line: pictures, objects of every class, and where it is."""
    contents = [_read(_paths(root, split)[-1]) for split in SPLITS]
    pictures = " + ".join(str(len(content["images"])) for content in contents)
    counts = Counter(ann["category_id"] for content in contents for ann in content["annotations"])
    objects = ", ".join(f"{counts[i]} {name}" for i, name in enumerate(CLASSES, 1))
    return f"{pictures} images ({' + '.join(SPLITS)}), objects: {objects}, in {root}"
