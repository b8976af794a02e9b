# SPDX-License-Identifier: Apache-2.0
"""Make a small instance segmentation data set in COCO's layout: the same arguments give the same bytes."""

import argparse
import sys
from pathlib import Path

from mmcarafe.datasets.shapes.dataset import make_dataset, summary


def main(argv: list[str] | None = None) -> int:
    """Make the data set; return the exit status."""
    parser = argparse.ArgumentParser(description="Make the shapes data set in COCO's layout.")
    parser.add_argument("out_dir", nargs="?", default="data/shapes", help="folder to make")
    parser.add_argument("--train", type=int, default=800, help="training images")
    parser.add_argument("--val", type=int, default=200, help="validation images")
    parser.add_argument("--size", type=int, default=160, help="image width and height in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed; same seed, same bytes")
    parser.add_argument("--force", action="store_true", help="replace a data set made by this tool")
    args = vars(parser.parse_args(argv))
    out_dir = args.pop("out_dir")
    root = Path(out_dir).resolve()
    try:
        print(summary(root) if make_dataset(root, **args) else f"already there: {root}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Those raised here have no strerror and are whole sentences already.
        wrong = f"{out_dir} can't be written: {error.strerror}."
        print(f"error: {wrong if error.strerror else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing was kept.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
