# SPDX-License-Identifier: Apache-2.0
"""Compare a trained detector in PyTorch, compiled, ONNX Runtime, OpenVINO and INT8 on its validation split.

Prints one Markdown table: AP by mmdet's CocoMetric, size, load time, and the median time of an image, from
the pixels in memory to boxes and masks of its size.

Examples::

    python tools/deployment/compare_formats.py CONFIG CHECKPOINT.pth --output work_dirs/formats
    python tools/deployment/compare_formats.py CONFIG CHECKPOINT.pth --formats pytorch onnx --images 100
"""

import argparse
import json
from pathlib import Path

import torch
from mmengine.runner import load_checkpoint

from mmcarafe.apis.config import read_config
from mmcarafe.apis.formats import NAMES, Formats, Row, check_installed, measure, table
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.state_dict import check_checkpoint
from mmcarafe.deploy.network import MIN_SIDE
from mmcarafe.deploy.parts import part_of
from mmcarafe.utils.cli import add_cfg_options, run
from mmcarafe.utils.markdown import split_section, write_section

MAX_LOSS = 1.0
"""AP that INT8 may lose and still have a row."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare the formats of a trained detector")
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--formats", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--images", type=positive, help="so many of the validation split; default: all")
    parser.add_argument(
        "--output", type=Path, default="work_dirs/formats", help="for the files and formats.json"
    )
    parser.add_argument("--page", type=Path, help="write the table into this page, between its markers")
    add_cfg_options(parser)
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """Read a number of images."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


def main(argv: list[str] | None = None) -> None:
    """Measure, and print."""
    args = parse_args(argv)
    check_installed(args.formats)
    if args.page:
        split_section(args.page, "formats")
    cfg = read_config(args.config, args.cfg_options)
    detector = build_model(cfg)
    check_checkpoint(detector, args.checkpoint)
    load_checkpoint(detector, args.checkpoint, map_location="cpu")
    detector.eval()
    args.output.mkdir(parents=True, exist_ok=True)
    part = part_of(detector, "detector", [MIN_SIDE, MIN_SIDE])
    part.module.eval()
    rows = []
    for row in measure(Formats(cfg, detector, part, args.output), args.formats, args.images):
        rows.append(row)
        measured = dict(threads=torch.get_num_threads(), rows=[row._asdict() for row in rows])
        (args.output / "formats.json").write_text(json.dumps(measured, indent=1))
    kept = [row for row in rows if not loses(row, rows)]
    print(table(kept or rows))
    if args.page:
        write_section(args.page, "formats", table(kept or rows))


def loses(row: Row, rows: list[Row]) -> bool:
    """Tell, and say, whether INT8 loses too much beside PyTorch, or the first row where that was left out."""
    whole = next((one for one in rows if one.format == NAMES["pytorch"]), rows[0])
    lost = max((whole.ap[name] - value for name, value in row.ap.items()), default=0.0)
    if row.format != NAMES["int8"] or lost <= MAX_LOSS:
        return False
    print(f"{row.format} loses {lost:.1f} AP, more than {MAX_LOSS:.0f}, and has no row")
    return True


if __name__ == "__main__":
    run(main)
