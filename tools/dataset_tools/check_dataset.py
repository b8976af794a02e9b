# SPDX-License-Identifier: Apache-2.0
"""Find everything in a COCO data set that would stop training or evaluation, or lose objects, at once.

Exit status: 0 where nothing is lost or refused, 1 where something is, 2 for wrong use.

Examples::

    python tools/dataset_tools/check_dataset.py instances_train2017.json --img-dir data/coco/train2017
    python tools/dataset_tools/check_dataset.py ANN_FILE --img-dir DIR --config CONFIG --out report.json
    python tools/dataset_tools/check_dataset.py ANN_FILE --no-images
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from mmcarafe.apis.config import read_config
from mmcarafe.datasets.annotation_file import read_annotations
from mmcarafe.datasets.checks.annotations import check_annotations
from mmcarafe.datasets.checks.findings import as_json, table
from mmcarafe.datasets.checks.images import check_images
from mmcarafe.datasets.checks.kinds import KINDS
from mmcarafe.datasets.checks.settings import Settings, read_settings
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import add_cfg_options, run, sentence_of


def check_out(name: str, ann_file: str) -> None:
    """Raise InputError unless a report can be written, before the work it is of."""
    try:
        with open(name, "a"):
            same = Path(name).samefile(ann_file)
    except OSError as error:
        raise InputError(
            f"--out {name} cannot be written ({error.strerror}): expected a JSON file"
        ) from error
    if same:
        raise InputError(f"--out {name} is the annotation file: name another one")


def check(args: argparse.Namespace) -> int:
    """Check and report; return the exit status."""
    settings = Settings()
    if args.config:
        settings = read_settings(read_config(args.config, args.cfg_options), args.ann_file)
    if args.img_dir and not Path(args.img_dir).is_dir():
        raise InputError(f"--img-dir {args.img_dir} is no folder")
    data = read_annotations(args.ann_file)
    if args.out:
        check_out(args.out, args.ann_file)
    found, images = check_annotations(data, settings)
    if args.img_dir:
        check_images(Path(args.img_dir), images, settings, args.threads, found)
    sys.stdout.reconfigure(errors="backslashreplace")  # names that its encoding lacks
    if args.config:
        print(f"{args.config}: {settings.source}")
    if found:
        Console(width=120, markup=False, highlight=False).print(table(found))
    errors = [len(examples) for kind, examples in found.items() if KINDS[kind].severity == "error"]
    counts = ", ".join(f"{len(entries)} {part}" for part, entries in data.items())
    notes = len(found) - len(errors)
    print(f"{counts}: {sum(errors)} errors of {len(errors)} kinds, {notes} kinds of notes")
    if args.out:
        Path(args.out).write_text(as_json(found))
    return 1 if errors else 0


def main(argv: list[str] | None = None) -> int:
    """Run the tool; wrong use exits with status 2, which leaves 1 to what is found."""
    parser = argparse.ArgumentParser(description="Find all that is wrong with a COCO data set")
    parser.add_argument("ann_file", help="COCO annotations")
    parser.add_argument("--img-dir", help="folder that file_name starts from")
    parser.add_argument("--config", help="whose classes, filters and transforms count; default: COCO's")
    parser.add_argument("--no-images", action="store_true", help="check the annotations alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that read images")
    parser.add_argument("--out", help="JSON file for all that is found")
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.no_images == bool(args.img_dir):
        parser.error("expected either --img-dir with the images' folder or --no-images")
    if args.threads < 1:
        parser.error("--threads: expected 1 or more")
    try:
        return check(args)
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        parser.exit(2, f"{sentence}\n")


if __name__ == "__main__":
    run(main)
