# SPDX-License-Identifier: Apache-2.0
"""Write the objects that the demo finds as COCO results, with their numbers."""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results, mask2bbox

from mmcarafe.apis.drawing import Drawing
from mmcarafe.apis.inferencer import Inferencer
from mmcarafe.datasets.annotation_file import read_annotations
from mmcarafe.errors import InputError
from mmcarafe.utils.files import write_file


class CocoIds:
    """Numbers of images and categories: those of an annotation file, or counted from 0.

    Raises:
        InputError: the file is not COCO's, or lacks a class of the model.
    """

    def __init__(self, ann_file: str | None, classes: tuple[str, ...]):
        self.images: dict[str, set] | None = None
        self.categories = {name: i for i, name in enumerate(classes)}
        if ann_file:
            data = read_annotations(ann_file)
            self.images = _ids_by_name(ann_file, data["images"], "file_name")
            ids = _ids_by_name(ann_file, data["categories"], "name")
            for name in classes:
                if len(found := ids.get(name, set())) != 1:
                    many = f"{len(found)} categories" if found else "no category"
                    raise InputError(f"--ann-file: {ann_file} has {many} {name!r}, a class of the model")
                (self.categories[name],) = found

    def image(self, number: int, name: str) -> int:
        """Return the id of the image that was read as the number-th."""
        if self.images is None:
            return number
        if name not in self.images:
            raise InputError(f"--ann-file: the annotations have no image {name}")
        if len(self.images[name]) > 1:
            raise InputError(
                f"--ann-file: the annotations have {len(self.images[name])} images called {name}, in several "
                "folders; detect one folder at a time, with an annotation file of its own"
            )
        return next(iter(self.images[name]))


def _ids_by_name(ann_file: str, entries: list, field: str) -> dict[str, set]:
    """Return ids of the entries of each name, without the folders of a file."""
    ids = defaultdict(set)
    for entry in entries:
        whole = isinstance(entry, dict) and isinstance(entry.get(field), str)
        if not whole or not isinstance(entry.get("id"), int | str):
            raise InputError(
                f"--ann-file: {ann_file}: expected objects with id and {field}, got {repr(entry)[:60]}"
            )
        ids[Path(entry[field]).name if field == "file_name" else entry[field]].add(entry["id"])
    return ids


def coco_results(
    image_id: int, name: str, sample: DetDataSample, ids: CocoIds, score_thr: float
) -> list[dict]:
    """Return the objects of an image as COCO writes results."""
    found = sample.pred_instances.cpu()
    found = found[found.scores >= score_thr]
    masks = [None] * len(found)
    if "masks" in found:
        masks = encode_mask_results(found.masks.numpy())
        if not found.bboxes.any():  # SOLO gives none
            found.bboxes = mask2bbox(found.masks)
    results = []
    for label, score, box, mask in zip(found.labels, found.scores, found.bboxes, masks, strict=True):
        x1, y1, x2, y2 = box.tolist()
        category = sample.classes[label]
        result = dict(image_id=image_id, file_name=name, category_id=ids.categories[category])
        result |= dict(category=category, bbox=[x1, y1, x2 - x1, y2 - y1], score=float(score))
        if mask is not None:
            result["segmentation"] = dict(size=list(mask["size"]), counts=mask["counts"].decode())
        results.append(result)
    return results


class Detections:
    """Write what the demo finds: a drawing of each image, or a video, and ``results.json``.

    Raises:
        InputError: ``args.ann_file`` is not COCO's, or lacks a class of the model or one of the images; or
            several images have a name that is one image's there.
    """

    folders = ("",)  # where files are written, in the folder of the output

    def __init__(
        self, inferencer: Inferencer, args: argparse.Namespace, names: list[str], folder: Path, fps: float = 0
    ):
        self.score_thr = 0.3 if args.score_thr is None else args.score_thr
        self.ids = CocoIds(args.ann_file, inferencer.model.dataset_meta["classes"])
        for name in names:  # before the work, not in the middle of it
            self.ids.image(0, name)
        for name, count in Counter(names).items() if args.ann_file else ():
            if count > 1:
                raise InputError(
                    f"--ann-file: {count} images to detect are called {name}, which is one image there; "
                    "detect one folder at a time"
                )
        self.drawing = Drawing(inferencer.visualizer, folder, fps, pred_score_thr=self.score_thr)
        self.results, self.number = [], 0

    def add(self, name: str, image: np.ndarray, sample: DetDataSample) -> None:
        """Add what was found in one image, BGR."""
        image_id = self.ids.image(self.number, name)
        self.results += coco_results(image_id, name, sample, self.ids, self.score_thr)
        self.drawing.write(name, image, sample)
        self.number += 1

    def close(self) -> None:
        """Write the results."""
        self.drawing.close()
        path = self.drawing.folder / "results.json"
        write_file(path, (json.dumps(self.results) + "\n").encode())
        print(f"{len(self.results)} objects in {self.number} images; written: {path} and the drawings")
