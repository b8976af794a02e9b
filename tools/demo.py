# SPDX-License-Identifier: Apache-2.0
"""Detect objects in an image, a folder, a glob or a video: pictures with what was found, and COCO results.

Examples::

    python tools/demo.py street.jpg configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py CHECKPOINT.pth
    python tools/demo.py 'shots/*.png' CONFIG CHECKPOINT.pth --batch-size 4 --device cuda:0 --out-dir found
    python tools/demo.py drive.mp4 CONFIG CHECKPOINT.pth --score-thr 0.5
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from glob import glob
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from common import InputError, add_device_option, check_checkpoint, read_config, read_state_dict, run
from mmcv import imread
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from rich.progress import track

from mmcarafe.models.loading import Resize, leaves_no_pixel

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm"}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Draw and write what a detector finds")
    parser.add_argument("input", help="image, folder of images, glob in quotes, or video")
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--out-dir", default="demo", help="folder for pictures or a video, and results.json")
    add_device_option(parser)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--score-thr", type=float, default=0.3, help="least score that is drawn and written")
    parser.add_argument("--ann-file", help="COCO annotations whose numbers of images and categories to write")
    args = parser.parse_args()
    if args.batch_size < 1 or args.threads < 1:
        parser.error("--batch-size and --threads: expected 1 or more")
    return args


def find_images(given: str) -> list[Path]:
    """The images that a path or a glob names, in order; InputError where there is none."""
    path = Path(given)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
        if not found:
            raise InputError(f"folder {given} holds no image ({', '.join(sorted(IMAGES))})")
    elif path.is_file():
        found = [path]
    else:
        found = [p for p in map(Path, sorted(glob(given))) if p.is_file()]
        if not found:
            raise InputError(f"{given} is no image, folder, glob or video that exists")
    return found


def test_scale(inferencer: DetInferencer) -> tuple[int, int] | None:
    """The size within which images are resized with their ratio kept; None where they are not."""
    steps = [step for step in inferencer.pipeline.transforms if isinstance(step, Resize)]
    return steps[0].scale if steps and steps[0].keep_ratio else None


def read_images(
    paths: list[Path], skipped: list[str], scale: tuple[int, int] | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and BGR pixels of each image, read as in training; those that cannot be used are noted."""
    for path in paths:
        try:
            image = imread(str(path))
        except cv2.error:  # no bytes, or too many pixels
            image = None
        if image is None:
            skipped.append(str(path))
        elif scale and leaves_no_pixel(image.shape[1::-1], scale):
            skipped.append(f"{path} (too thin)")
        else:
            yield path.name, image


def read_frames(video: cv2.VideoCapture) -> Iterator[tuple[str, np.ndarray]]:
    """Name and BGR pixels of each frame."""
    number = 0
    while True:
        more, frame = video.read()
        if not more:
            return
        yield f"frame {number}", frame
        number += 1


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of up to ``size`` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class CocoIds:
    """Numbers of images and categories: those of an annotation file, or counted from 0."""

    def __init__(self, ann_file: str | None, classes: tuple[str, ...]):
        self.images: dict[str, int] | None = None
        self.categories = {name: i for i, name in enumerate(classes)}
        if ann_file:
            if not Path(ann_file).is_file():
                raise InputError(f"--ann-file: {ann_file} does not exist")
            data = json.loads(Path(ann_file).read_text(encoding="utf-8"))
            self.images = {Path(image["file_name"]).name: image["id"] for image in data["images"]}
            self.categories = {category["name"]: category["id"] for category in data["categories"]}
            if missing := [name for name in classes if name not in self.categories]:
                raise InputError(
                    f"--ann-file: {ann_file} has no category {missing[0]!r}, a class of the model"
                )

    def image(self, number: int, name: str) -> int:
        """Of the image that was read as the number-th."""
        if self.images is None:
            return number
        if name not in self.images:
            raise InputError(f"--ann-file: the annotations have no image {name}")
        return self.images[name]


def coco_results(
    image_id: int, name: str, sample: DetDataSample, ids: CocoIds, score_thr: float
) -> list[dict]:
    """What was found in an image, as COCO writes results."""
    found = sample.pred_instances.cpu()
    found = found[found.scores >= score_thr]
    masks = encode_mask_results(found.masks.numpy()) if "masks" in found else [None] * len(found)
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
        self.video = None
        self.taken: set[str] = set()

    def _file(self, name: str) -> Path:
        """A name of its own for a picture: images of several folders or types may be called the same."""
        stem = Path(name).stem
        while stem in self.taken:
            stem += "_"
        self.taken.add(stem)
        return self.folder / f"{stem}.png"

    def write(self, name: str, image: np.ndarray, sample: DetDataSample) -> None:
        """Add one image with what was found in it."""
        self.visualizer.add_datasample(
            name, image[..., ::-1], sample, draw_gt=False, pred_score_thr=self.score_thr
        )
        drawn = np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])
        if not self.fps:
            cv2.imwrite(str(self._file(name)), drawn)
            return
        if self.video is None:
            size = drawn.shape[1::-1]
            path = str(self.folder / "video.mp4")
            self.video = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), self.fps, size)
        self.video.write(drawn)

    def close(self) -> None:
        """Finish the video."""
        if self.video is not None:
            self.video.release()


def main() -> None:
    """Detect, draw, and write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    skipped: list[str] = []
    video = None
    if Path(args.input).suffix.lower() in VIDEOS and Path(args.input).is_file():
        if args.ann_file:
            raise InputError("--ann-file: frames of a video are in no annotation file; leave it out")
        video = cv2.VideoCapture(args.input)
        total, fps = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), video.get(cv2.CAP_PROP_FPS) or 25
        if not video.isOpened():
            raise InputError(f"video {args.input} cannot be read")
    else:
        paths = find_images(args.input)
        total, fps = len(paths), 0
        if Path(args.out_dir).resolve() in {path.parent.resolve() for path in paths}:
            raise InputError(f"--out-dir {args.out_dir} holds the images themselves; choose another folder")
    inferencer = build_inferencer(args)
    folder = Path(args.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    classes = inferencer.model.dataset_meta["classes"]
    ids = CocoIds(args.ann_file, classes)
    for path in [] if video else paths:  # before the work, not in the middle of it
        ids.image(0, path.name)
    source = read_frames(video) if video else read_images(paths, skipped, test_scale(inferencer))
    drawing, results, number = Drawing(inferencer, folder, args.score_thr, fps), [], 0
    steps = track(batches(source, args.batch_size), "detecting", total=-(-total // args.batch_size))
    try:
        for batch in steps:
            images = [image for _, image in batch]
            found = inferencer(images, batch_size=args.batch_size, return_datasamples=True, no_save_vis=True)
            for (name, image), sample in zip(batch, found["predictions"], strict=True):
                sample.classes = classes
                results += coco_results(ids.image(number, name), name, sample, ids, args.score_thr)
                drawing.write(name, image, sample)
                number += 1
    finally:  # interrupted or out of memory: what was found until then is kept
        drawing.close()
        (folder / "results.json").write_text(json.dumps(results) + "\n")
        print(f"{len(results)} objects in {number} images; written: {folder}/results.json and the drawings")
    if skipped:
        raise InputError(f"{len(skipped)} images cannot be used and were left out: {', '.join(skipped)}")


def build_inferencer(args: argparse.Namespace) -> DetInferencer:
    """mmdet's inferencer with weights that fit."""
    cfg = read_config(args.config)
    cfg.model.backbone.init_cfg = None
    read_state_dict(args.checkpoint)  # refuses what is no plain data, before mmdet reads it
    inferencer = DetInferencer(cfg, args.checkpoint, device=args.device, show_progress=False)
    check_checkpoint(inferencer.model, args.checkpoint)
    return inferencer


if __name__ == "__main__":
    run(main)
