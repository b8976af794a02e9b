# SPDX-License-Identifier: Apache-2.0
"""Detect objects in an image, a folder, a glob or a video: pictures with what was found, and COCO results.

Examples::

    python tools/demo.py street.jpg configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py CHECKPOINT.pth
    python tools/demo.py 'shots/*.png' CONFIG CHECKPOINT.pth --batch-size 4 --device cuda:0 --out-dir found
    python tools/demo.py drive.mp4 CONFIG CHECKPOINT.pth --score-thr 0.5
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from glob import glob
from itertools import islice
from pathlib import Path

import torch
from common import InputError, absence_named, add_device_option, run
from demo_model import Inferencer
from demo_output import CocoIds, Drawing, coco_results
from demo_video import VIDEOS, Video
from mmcv.transforms import LoadImageFromFile
from pictures import check_folder, check_kept, write_file
from rich.progress import track

from mmcarafe.models.loading import ImageError, Resize, leaves_no_pixel
from mmcarafe.visualization import to_bgr

LOAD = LoadImageFromFile()  # as most configs have it
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


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


def find_images(given: str, skipped: list[str]) -> list[Path]:
    """The images that a path or a glob names, in order; what is called like one but is no file is noted.

    Raises:
        InputError: there is none.
    """
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir():
        named = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
        absent = f"folder {given} holds no image ({', '.join(sorted(IMAGES))})"
    else:
        named = [Path(name) for name in sorted(glob(given))]
        absent = f"{given} is no image, folder, glob or video that exists"
    # a link to nothing, a folder, a pipe (which would be waited for)
    others = [p for p in named if not p.is_file()]
    skipped += [f"{p} (no file)" for p in others if p.suffix.lower() in IMAGES]
    if len(others) == len(named):
        raise InputError(absent)
    return [p for p in named if p.is_file()]


def test_scale(inferencer: Inferencer) -> tuple[int, int] | None:
    """The size within which images are resized with their ratio kept; None where they are not."""
    steps = [step for step in inferencer.pipeline.transforms if isinstance(step, Resize)]
    return steps[0].scale if steps and steps[0].keep_ratio else None


def read_images(
    paths: list[Path], skipped: list[str], scale: tuple[int, int] | None, load: Callable = LOAD
) -> Iterator[tuple[str, dict]]:
    """Name of each image, and what a pipeline's loading step makes of it; unusable ones are noted."""
    for path in paths:
        try:
            loaded = load(dict(img_path=str(path)))
        except (ImageError, OSError):  # no bytes, too many pixels, or not ours to read
            loaded = None
        if loaded is None:
            skipped.append(str(path))
        elif scale and leaves_no_pixel(loaded["img"].shape[1::-1], scale):
            skipped.append(f"{path} (too thin)")
        else:
            yield path.name, loaded


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of up to ``size`` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def open_video(args: argparse.Namespace) -> Video | None:
    """The input where it is a video; InputError where it cannot be read as one."""
    if Path(args.input).suffix.lower() not in VIDEOS or not Path(args.input).is_file():
        return None
    if args.ann_file:
        raise InputError("--ann-file: frames of a video are in no annotation file; leave it out")
    return Video(args.input)


def main() -> None:
    """Detect, draw, and write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    folder = Path(args.out_dir)
    skipped: list[str] = []
    video = open_video(args)
    paths = [Path(args.input)] if video else find_images(args.input, skipped)
    check_folder("--out-dir", folder)
    check_kept("--out-dir", folder, [*paths, *([Path(args.ann_file)] if args.ann_file else [])])
    inferencer = Inferencer(args.config, args.checkpoint, args.device)
    ids = CocoIds(args.ann_file, inferencer.model.dataset_meta["classes"])
    for path in paths:  # before the work, not in the middle of it
        ids.image(0, path.name)
    folder.mkdir(parents=True, exist_ok=True)
    if video:
        source = ((name, inferencer.take(frame)) for name, frame in video.frames())
        total, fps = video.expected, video.fps
    else:
        source = read_images(paths, skipped, test_scale(inferencer), inferencer.load)
        total, fps = len(paths), 0
    drawing = Drawing(inferencer, folder, args.score_thr, fps)
    steps = track(batches(source, args.batch_size), "detecting", total=-(-total // args.batch_size))
    detect(args, inferencer, steps, ids, drawing)
    drawing.check()
    if video:
        video.check()
    if skipped:
        raise InputError(f"{len(skipped)} images cannot be used and were left out: {', '.join(skipped)}")


def detect(
    args: argparse.Namespace, inferencer: Inferencer, steps: Iterable, ids: CocoIds, drawing: Drawing
) -> None:
    """Detect in batches of named images, and write what is found."""
    results, number = [], 0
    try:
        for batch in steps:
            images = [loaded | dict(img_id=0) for _, loaded in batch]
            with absence_named(f"{type(inferencer.model).__name__} does not run on {args.device}"):
                found = inferencer(
                    images, batch_size=args.batch_size, return_datasamples=True, no_save_vis=True
                )
            for (name, loaded), sample in zip(batch, found["predictions"], strict=True):
                sample.classes = inferencer.model.dataset_meta["classes"]
                results += coco_results(ids.image(number, name), name, sample, ids, args.score_thr)
                drawing.write(name, to_bgr(loaded["img"]), sample)
                number += 1
    finally:  # interrupted or out of memory: what was found until then is kept
        drawing.close()
        path = drawing.folder / "results.json"
        write_file(path, (json.dumps(results) + "\n").encode())
        print(f"{len(results)} objects in {number} images; written: {path} and the drawings")


if __name__ == "__main__":
    run(main)
