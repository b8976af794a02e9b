# SPDX-License-Identifier: Apache-2.0
"""Compares an exported model with its module, on inputs it was not made with, for export_onnx.py."""

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import torch
from common import InputError
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

TIMED = 5
MULTIPLE = 32


def runtime(path: Path) -> tuple[Callable[[tuple[Tensor, ...]], list[Tensor]], float]:
    """A function that runs the exported file, and the seconds it took to load."""
    start = time.perf_counter()
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda inputs: tree_leaves(program(*inputs)), time.perf_counter() - start
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"--verify needs ONNX Runtime ({error}); pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        feeds = dict(zip(names, (t.numpy() for t in inputs), strict=True))
        return [torch.from_numpy(out) for out in session.run(None, feeds)]

    return run, time.perf_counter() - start


def other_inputs(inputs: tuple[Tensor, ...], args: Namespace) -> dict[str, tuple[Tensor, ...]]:
    """Fresh random inputs of the exported sizes and, for a dynamic model, of others; images for a raw one."""

    def draw(batch: int, down: float, across: float) -> tuple[Tensor, ...]:
        sizes = [(round(t.shape[2] * down), round(t.shape[3] * across)) for t in inputs]
        most = 255 if args.part == "raw" else 1
        return tuple(torch.rand(batch, t.shape[1], *hw) * most for t, hw in zip(inputs, sizes, strict=True))

    height, width = (size // MULTIPLE for size in args.shape)
    given = {"random": draw(2, 1, 1)}
    if args.dynamic:
        given["random, one image, larger"] = draw(1, (height + 1) / height, (width + 2) / width)
        given["random, three images, smaller"] = draw(3, (height - 1) / height, 1)
    for name in args.verify or ():
        if args.part != "raw":
            raise InputError(f"--verify {name}: only --part raw takes images")
        given[name] = (read_image(name, None if args.dynamic else args.shape),)
    return given


def read_image(name: str, shape: list[int] | None) -> Tensor:
    """A batch of the image twice, resized to this shape or to sides that are multiples of 32."""
    image = cv2.imread(name)
    if image is None:
        raise InputError(f"image {name} does not exist or cannot be read")
    height, width = shape or (max(MULTIPLE * 2, size // MULTIPLE * MULTIPLE) for size in image.shape[:2])
    image = cv2.resize(image, (width, height))
    return torch.from_numpy(image).permute(2, 0, 1)[None].float().repeat(2, 1, 1, 1)


def error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference of any output from PyTorch's, in units of that output's largest value."""
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        raise InputError(f"outputs have shapes {[tuple(t.shape) for t in ours]} instead of PyTorch's")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if not a.isfinite().all():
            return float("inf")
        worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)))
    return worst


def milliseconds(call: Callable[[], object]) -> float:
    """Median of a few calls, after one."""
    call()
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times) * 1e3


@torch.no_grad()
def verify(path: Path, module: nn.Module, inputs: tuple[Tensor, ...], args: Namespace) -> None:
    """Print errors and times; InputError where the file computes something else."""
    run, load = runtime(path)
    engine = "torch.export" if path.suffix == ".pt2" else "ONNX Runtime"
    table = Table(title=f"{path.name}: loaded in {load:.2f} s, {torch.get_num_threads()} threads")
    for column in ("input", "largest error / value", f"{engine}, ms", "PyTorch, ms"):
        table.add_column(column, justify="left" if column == "input" else "right")
    worst = 0.0
    for name, given in other_inputs(inputs, args).items():
        try:
            outputs = run(given)
        except Exception as problem:  # ONNX Runtime's errors have no common type but this
            reason = str(problem).strip().splitlines()[0]
            raise InputError(f"{path} does not run on another input, {name!r}: {reason}") from problem
        found = error(outputs, tree_leaves(module(*given)))
        worst = max(worst, found)
        calls = [] if args.verify is None else [run, lambda g: module(*g)]
        times = [milliseconds(lambda f=f, g=given: f(g)) for f in calls]
        table.add_row(name, f"{found:.1e}", *(f"{t:.1f}" for t in times))
    Console(width=110).print(table)
    if not worst <= args.tolerance:
        raise InputError(
            f"{path} differs from PyTorch by {worst:.1e} of the largest value, more than {args.tolerance:.0e}"
        )
    print(f"verified: the largest error is {worst:.1e} of the largest value, {args.tolerance:.0e} is allowed")
