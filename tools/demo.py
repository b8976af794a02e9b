# SPDX-License-Identifier: Apache-2.0
"""Find objects or segment an image, a folder, a glob or a video.

Of detectors it writes pictures with what was found, and COCO results; of segmentors pictures, and maps of the
class of each pixel.

Examples::

    python tools/demo.py street.jpg configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py CHECKPOINT.pth
    python tools/demo.py 'shots/*.png' CONFIG CHECKPOINT.pth --batch-size 4 --device cuda:0 --out-dir found
    python tools/demo.py drive.mp4 CONFIG CHECKPOINT.pth --score-thr 0.5
"""

import argparse
from pathlib import Path

import torch
from rich.progress import track

from mmcarafe.apis.config import read_config
from mmcarafe.apis.images import batches, find_images, infer, read_images, test_scale
from mmcarafe.apis.libraries import library_of
from mmcarafe.apis.video import SUFFIXES, Video
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import add_device_option, run
from mmcarafe.utils.files import check_folder, check_kept


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Draw and write what a model finds")
    parser.add_argument("input", help="image, folder of images, glob in quotes, or video")
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument(
        "--out-dir", default="work_dirs/demo", help="folder for pictures or a video, and results"
    )
    add_device_option(parser)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument(
        "--score-thr", type=float, help="of detectors, least score that is drawn and written; default: 0.3"
    )
    parser.add_argument("--ann-file", help="COCO annotations whose numbers of images and categories to write")
    args = parser.parse_args(argv)
    if args.batch_size < 1 or args.threads < 1:
        parser.error("--batch-size and --threads: expected 1 or more")
    return args


def open_video(args: argparse.Namespace) -> Video | None:
    """Return the input where it is a video; InputError where it cannot be read as one."""
    if Path(args.input).suffix.lower() not in SUFFIXES or not Path(args.input).is_file():
        return None
    if args.ann_file:
        raise InputError("--ann-file: frames of a video are in no annotation file; leave it out")
    return Video(args.input)


def main(argv: list[str] | None = None) -> None:
    """Find, draw, and write the results."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    folder = Path(args.out_dir)
    skipped: list[str] = []
    video = open_video(args)
    paths = [Path(args.input)] if video else find_images(args.input, skipped)
    check_folder("--out-dir", folder)
    library = library_of(read_config(args.config))
    for part in library.Output.folders:
        check_kept("--out-dir", folder / part, [*paths, *([Path(args.ann_file)] if args.ann_file else [])])
    inferencer = library.Inferencer(args.config, args.checkpoint, args.device)
    names = [path.name for path in paths]
    output = library.Output(inferencer, args, names, folder, video.fps if video else 0)
    folder.mkdir(parents=True, exist_ok=True)
    if video:
        source = ((name, inferencer.take(frame)) for name, frame in video.frames())
        total = video.expected
    else:
        source = read_images(paths, skipped, test_scale(inferencer), inferencer.load)
        total = len(paths)
    steps = track(batches(source, args.batch_size), "predicting", total=-(-total // args.batch_size))
    infer(inferencer, steps, output)
    output.drawing.check()
    if video:
        video.check()
    if skipped:
        raise InputError(f"{len(skipped)} images cannot be used and were left out: {', '.join(skipped)}")


if __name__ == "__main__":
    run(main)
