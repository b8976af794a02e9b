# SPDX-License-Identifier: Apache-2.0
"""``python -m mmcarafe``: print what is installed and which kernels run, for a report of a problem.

``python -m mmcarafe demo [OUT.png]`` draws what CARAFE does, beside nearest and bilinear upsampling.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

import mmcarafe
from mmcarafe.errors import InputError
from mmcarafe.ops import cuda, implementations

DISTRIBUTIONS = {
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmcv": ("mmcv", "onedl-mmcv"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "triton": ("triton",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}
"""What is imported, and the names under which it may be installed."""


def version(names: tuple[str, ...]) -> str:
    """Return the version of the first of some distributions that is installed, with its name if another."""
    for name in names:
        try:
            return metadata.version(name) + ("" if name == names[0] else f" ({name})")
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def cpu_kernels() -> str:
    """Return which kernels CPU tensors get, and all that this build and machine have, fastest first."""
    known = implementations("cpu")
    running = os.environ.get("MMCARAFE_CPU") or known[0]
    return f"{running} (of {', '.join(known)}), {torch.get_num_threads()} threads"


def cuda_kernels() -> str:
    """Return which kernels CUDA tensors of each dtype get, or why there are none."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    found = []
    for dtype in (torch.float32, torch.float16):
        try:
            x = torch.zeros(1, 64, 8, 8, dtype=dtype, device="cuda")
            masks = torch.zeros(1, 25, 16, 16, dtype=dtype, device="cuda")
            found.append(f"{cuda.choose('carafe', (x, masks), 5, 1, 2)} for {str(dtype)[6:]}")
        except (RuntimeError, ValueError) as error:  # a GPU that is full or too old
            return f"none: {str(error).splitlines()[0]}"
    return f"{', '.join(found)}, on {torch.cuda.get_device_name()}"


def print_installed() -> None:
    """Print a line for each."""
    lines = {
        "mmcarafe": f"{mmcarafe.__version__} in {Path(mmcarafe.__file__).parent}",
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "torch": torch.__version__,
        **{name: version(names) for name, names in DISTRIBUTIONS.items()},
        "CPU kernels": cpu_kernels(),
        "CUDA kernels": cuda_kernels(),
    }
    for name, value in lines.items():
        print(f"{name:<12} {value}")


def main(argv: Sequence[str] = ()) -> None:
    """Print what is installed, or draw."""
    parser = argparse.ArgumentParser(prog="python -m mmcarafe", description="Print what is installed")
    commands = parser.add_subparsers(dest="command")
    drawing = commands.add_parser("demo", help="draw what CARAFE does, beside nearest and bilinear")
    drawing.add_argument("out", nargs="?", type=Path, default=Path("carafe.png"), help="default: carafe.png")
    args = parser.parse_args(argv)
    if args.command is None:
        print_installed()
        return
    from mmcarafe import demo  # the report above is for installations in which this may fail

    try:
        errors = demo.write(args.out)
    except (InputError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print("error of", ", ".join(f"{way} {value:.2f} %" for way, value in errors.items()))
    print("picture:", args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
