# SPDX-License-Identifier: Apache-2.0
"""Write what the demo finds: COCO results with their numbers, and pictures or a video."""

from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results, mask2bbox

from mmcarafe.datasets.annotation_file import read_annotations
from mmcarafe.errors import InputError
from mmcarafe.utils.files import write_picture


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


class Drawing:
    """Writes pictures, or one video where a frame rate is given."""

    def __init__(self, inferencer: DetInferencer, folder: Path, score_thr: float, fps: float = 0):
        self.visualizer, self.folder, self.score_thr, self.fps = inferencer.visualizer, folder, score_thr, fps
        self.path, self.video, self.frames = folder / "video.mp4", None, 0
        self.taken: set[str] = set()

    def _file(self, name: str) -> Path:
        """Return a picture's own name: images of several folders or types may be called the same."""
        stem = Path(name).stem
        while stem in self.taken:
            stem += "_"
        self.taken.add(stem)
        return self.folder / f"{stem}.png"

    def write(self, name: str, image: np.ndarray, sample: DetDataSample) -> None:
        """Add one image with what was found in it; OSError or InputError where it cannot be written."""
        self.visualizer.add_datasample(
            name, image[..., ::-1], sample, draw_gt=False, pred_score_thr=self.score_thr
        )
        drawn = np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])
        if not self.fps:
            write_picture(self._file(name), drawn)
            return
        if self.video is None:
            size, code = drawn.shape[1::-1], cv2.VideoWriter_fourcc(*"mp4v")
            self.video = cv2.VideoWriter(str(self.path), code, self.fps, size)
            if not self.video.isOpened():
                raise InputError(f"{self.path} cannot be written; is it a folder, or is the disk full?")
        self.video.write(drawn)
        self.frames += 1

    def close(self) -> None:
        """Finish the video."""
        if self.video is not None:
            self.video.release()

    def check(self) -> None:
        """Raise InputError unless the video that was written holds all frames."""
        # OpenCV does not report a full disk
        written = cv2.VideoCapture(str(self.path)) if self.frames else None
        if written and (count := int(written.get(cv2.CAP_PROP_FRAME_COUNT))) < self.frames:
            raise InputError(
                f"{self.path} was not written whole ({max(count, 0)} of {self.frames} frames): the disk is "
                "full or files may not be as large; make room and start again"
            )
