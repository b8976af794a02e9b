# SPDX-License-Identifier: Apache-2.0
"""Look inside CARAFE: where pixels come from, the kernels, their entropy, and maps before and after.

Example, and its options::

    python tools/analysis_tools/visualize_kernels.py CONFIG CHECKPOINT.pth street.jpg --out kernels
        [--points 210 95 340 180] [--module neck] [--html kernels.html]
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import load_checkpoint
from torch import nn

from mmcarafe.apis.config import KERNELS, absence_named, read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.state_dict import check_checkpoint
from mmcarafe.errors import InputError
from mmcarafe.layers.upsampler import Reassembler
from mmcarafe.utils.cli import add_cfg_options, add_device_option, run
from mmcarafe.utils.files import check_folder, check_pipeline, write_file, write_picture
from mmcarafe.visualization import (
    choose_points,
    draw,
    image_points,
    load_image,
    look,
    page,
    select,
    to_rgb,
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Draw what a model's CARAFE modules do with an image")
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("image")
    parser.add_argument("--out", help="folder for the pictures, in a folder for each part")
    parser.add_argument("--html", help="file for a page on which one points at output pixels")
    parser.add_argument(
        "--points", nargs="+", type=float, default=[], metavar="XY",
        help="x y [x y ...], pixels of the image from its top left; default: chosen by the kernels",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=4, help="points that are chosen")
    parser.add_argument(
        "--module",
        help="part of the model (neck), or a module (neck.upsample_modules.1) to trace from; default: all",
    )
    add_device_option(parser)
    parser.add_argument("--dpi", type=int, default=100, help="pixels an inch")
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if not (args.out or args.html):
        parser.error("expected --out DIR for pictures, or --html FILE for a page, or both")
    if len(args.points) % 2:
        parser.error(f"--points: expected pairs of x and y, got {len(args.points)} numbers")
    if args.count < 1 or args.dpi < 1:
        parser.error("--count and --dpi: expected 1 or more")
    return args


def load_model(cfg: Config, args: argparse.Namespace) -> nn.Module:
    """Build the model with its weights; InputError where there is nothing to look at."""
    model = build_model(cfg)
    if not any(isinstance(module, Reassembler) for module in model.modules()):
        raise InputError(
            f"config {args.config} builds no CARAFE module; name one with upsample_cfg=dict(type='CARAFE')"
        )
    check_checkpoint(model, args.checkpoint)
    load_checkpoint(model, args.checkpoint, map_location="cpu", logger="silent")
    return model.to(args.device)


def main(argv: list[str] | None = None) -> None:
    """Run the model on the image and write the pictures."""
    args = parse_args(argv)
    for option, folder in (("--out", args.out), ("--html", args.html and Path(args.html).parent)):
        if folder:
            check_folder(option, Path(folder))
    cfg = read_config(args.config, args.cfg_options)
    check_pipeline(cfg, args.config)
    if not Path(args.image).is_file():
        raise InputError(f"image {args.image} does not exist")
    model = load_model(cfg, args)
    with absence_named(f"{type(model).__name__} does not run on {args.device}", KERNELS):
        seen = look(model, *load_image(cfg, args.image))
    if not seen:
        raise InputError("no CARAFE module ran: a mask head's does where something is found")
    views = select(seen, args.module)
    if not views:
        known = dict.fromkeys(name for v in seen for name in (v.name, *(call.name for call in v.calls)))
        raise InputError(f"--module: expected one of {', '.join(known)}, which ran, got {args.module!r}")
    if flaw := next(filter(None, (view.flaw for view in views)), None):
        raise InputError(f"checkpoint {args.checkpoint} gives nothing to draw: {flaw}")
    shown = [view for view in views if not view.calls[0].downsamples]
    if args.html and not shown:
        raise InputError("--html: the page shows upsamplers alone; take --out for pictures of downsamplers")
    given = list(zip(args.points[::2], args.points[1::2], strict=True))
    points = [image_points(view, given) if given else choose_points(view, args.count) for view in views]
    if args.html:
        path = Path(args.html)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, page(shown).encode())
        size = path.stat().st_size / 1e6
        print(f"{', '.join(view.name for view in shown)}: written to {path}, {size:.1f} MB")
    for view, chosen in zip(views, points, strict=True) if args.out else ():
        if not chosen:
            print(f"{view.name}: left out, none of the points is in its RoI")
            continue
        folder = Path(args.out) / view.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in draw(view, chosen).items():
            write_picture(folder / f"{name}.png", to_rgb(figure, args.dpi)[..., ::-1], compression=9)
        print(f"{view.name}: {len(view.calls)} levels, {len(chosen)} points, written to {folder}")
    ran = {call.name for view in seen for call in view.calls}
    for name, module in model.named_modules():
        if isinstance(module, Reassembler) and name not in ran:
            print(f"{name}: left out, it did not run (a mask head's does where something is found)")


if __name__ == "__main__":
    run(main)
