# SPDX-License-Identifier: Apache-2.0
"""Compares an exported model with its module, on inputs it was not made with."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from mmcarafe.deploy.network import MIN_OPEN, MULTIPLE
from mmcarafe.deploy.parts import Part
from mmcarafe.deploy.runtimes import ENGINES, runtime
from mmcarafe.errors import InputError

TIMED = 5
# how OpenCV reads an image of so many channels; others as the file has them
FLAGS = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}
# share of the detections: where two boxes score alike, rounding decides which one suppresses the other, and
# where a pixel lies at the threshold of its mask, whether it counts for the score
MAX_LOST = 0.02


def other_inputs(
    part: Part, shape: list[int], dynamic: bool = False, images: Iterable[str] = ()
) -> dict[str, tuple[Tensor, ...]]:
    """Draw inputs of the exported sizes and, for a dynamic model, of others; read the images given.

    Raises:
        InputError: an image cannot be read, or is none that the part takes.
    """

    def draw(batch: int, down: float, across: float) -> tuple[Tensor, ...]:
        sizes = [(round(t.shape[2] * down), round(t.shape[3] * across)) for t in part.inputs]
        drawn = blots if part.takes_images else torch.rand
        return tuple(drawn(batch, t.shape[1], *hw) for t, hw in zip(part.inputs, sizes, strict=True))

    # an upsampler alone takes odd sizes too
    height, width = part.inputs[0].shape[2:] if part.scale else (size // MULTIPLE for size in shape)
    batch = len(part.inputs[0])
    given = {"random": draw(batch, 1, 1)}
    if dynamic:
        given["random, one image, larger"] = draw(1, (height + 1) / height, (width + 2) / width)
        given["random, three images, smaller"] = draw(3, (height - 1) / height, 1)
    for name in images:
        if not part.takes_images:
            raise InputError(f"--verify {name}: this part takes no images")
        channels = part.inputs[0].shape[1]
        given[name] = (read_image(name, None if dynamic else shape, channels, batch),)
    return given


def blots(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Draw images of blots large and small, Tensor[N, C, H, W], whole numbers from 0 to 255.

    In noise that differs from pixel to pixel all places look alike to a detector: their scores are equal but
    for rounding, which then decides what is found.
    """
    layers = []
    for size in (64, 16, 4):
        coarse = torch.randn(batch, channels, max(1, height // size), max(1, width // size))
        layers.append(F.interpolate(coarse, (height, width), mode="bilinear"))
    return (128 + 40 * sum(layers)).clamp(0, 255).round()


def read_image(name: str, shape: list[int] | None, channels: int, batch: int) -> Tensor:
    """Read a batch of the same image, resized to this shape or to sides that are multiples of 32."""
    image = cv2.imread(name, FLAGS.get(channels, cv2.IMREAD_UNCHANGED))
    if image is None:
        raise InputError(f"image {name} does not exist or cannot be read")
    height, width = shape or (max(MIN_OPEN, size // MULTIPLE * MULTIPLE) for size in image.shape[:2])
    image = torch.from_numpy(cv2.resize(image, (width, height)).astype(np.float32))
    image = image.reshape(height, width, -1).permute(2, 0, 1)
    if len(image) != channels:
        raise InputError(f"--verify {name}: the model takes {channels} channels, the image has {len(image)}")
    return image.repeat(batch, 1, 1, 1)


class Difference(NamedTuple):
    """Largest error in units of the largest value, and for detections how many of PyTorch's were found."""

    error: float
    found: int = 0
    wanted: int = 0


def difference(ours: list[Tensor], theirs: list[Tensor]) -> Difference:
    """Compare any outputs with PyTorch's."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if not a.isfinite().all():
            return Difference(float("inf"))
        worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)))
    return Difference(worst)


def detections_differ(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> Difference:
    """Compare boxes, scores, labels and masks: each of PyTorch's detections with its like, whatever its rank.

    Boxes are compared in units of the largest coordinate, and maps of logits in those of the largest logit;
    scores and probabilities are 0 to 1. One whose box or score differs by more than ``tolerance`` is another
    detection.
    """
    if not all(t.isfinite().all() for t in ours):
        return Difference(float("inf"))
    largest, *scales = (t.abs().max().clamp(min=1) for t in (theirs[0], *theirs[3:]))
    worst, found, wanted = 0.0, 0, 0
    for i in range(len(theirs[0])):
        a, b = ([t[i][image[1][i] > 0] for t in image] for image in (ours, theirs))
        wanted += max(len(a[0]), len(b[0]))  # more than PyTorch finds is as wrong as fewer
        if not len(a[0]) or not len(b[0]):
            continue
        apart = (b[0][:, None] - a[0][None]).abs().amax(-1) / largest
        apart = torch.maximum(apart, (b[1][:, None] - a[1][None]).abs())
        nearest, index = apart.masked_fill(b[2][:, None] != a[2][None], 1.0).min(1)
        same = nearest <= tolerance
        masks = [(y - x[index]).abs() / scale for x, y, scale in zip(a[3:], b[3:], scales, strict=True)]
        if same.any():
            worst = max(worst, *(float(t[same].max()) for t in (nearest, *masks)))
        found += min(int(same.sum()), len(index[same].unique()))
    return Difference(worst, found, wanted)


def milliseconds(call: Callable[[], object]) -> float:
    """Time a few calls after one that is not counted, and return the median."""
    call()
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times) * 1e3


def compare(
    path: Path, part: Part, name: str, ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-3
) -> Difference:
    """Return the difference of one run; raise InputError where too few detections agree."""
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        raise InputError(f"outputs have shapes {[tuple(t.shape) for t in ours]} instead of PyTorch's")
    if not part.finds_objects:
        return difference(ours, theirs)
    found = detections_differ(ours, theirs, tolerance)
    if found.wanted - found.found > MAX_LOST * found.wanted:
        raise InputError(
            f"{path} finds {found.found} of {found.wanted} detections on {name!r} to within {tolerance:.0e}, "
            f"and {1 - MAX_LOST:.0%} are expected; compare on images of yours, --verify IMAGE, and with a "
            "trained checkpoint, as boxes that score alike come in any order, or give a larger --tolerance"
        )
    return found


@torch.no_grad()
def verify(
    path: Path,
    part: Part,
    inputs: dict[str, tuple[Tensor, ...]],
    timed: bool = False,
    tolerance: float = 1e-3,
) -> None:
    """Print errors and, if asked for, times; raise InputError where the file computes something else."""
    run, load = runtime(path)
    table = Table(title=f"{path.name}: loaded in {load:.2f} s, {torch.get_num_threads()} threads")
    agree = ["detections"] if part.finds_objects else []
    for column in ("input", *agree, "largest error / value", f"{ENGINES[path.suffix]}, ms", "PyTorch, ms"):
        table.add_column(column, justify="left" if column == "input" else "right")
    results = []
    for name, given in inputs.items():
        try:
            outputs = run(given)
        except Exception as problem:  # the runtimes' errors have no common type but this
            reason = str(problem).strip().splitlines()[0]
            raise InputError(f"{path} does not run on another input, {name!r}: {reason}") from problem
        found = compare(path, part, name, outputs, tree_leaves(part.module(*given)), tolerance)
        results.append(found)
        calls = [run, lambda g: part.module(*g)] if timed else []
        times = [milliseconds(lambda f=f, g=given: f(g)) for f in calls]
        agree = [f"{found.found} of {found.wanted}"] if part.finds_objects else []
        table.add_row(name, *agree, f"{found.error:.1e}", *(f"{t:.1f}" for t in times))
    Console(width=110).print(table)
    worst = max(result.error for result in results)
    if not worst <= tolerance:
        raise InputError(
            f"{path} differs from PyTorch by {worst:.1e} of the largest value, more than {tolerance:.0e}; "
            "give a larger --tolerance if that is good enough, or another --opset or --part"
        )
    if part.finds_objects and not any(result.wanted for result in results):
        print("nothing was detected on these inputs, so nothing was compared: give images, --verify IMAGE")
        return
    print(f"verified: the largest error is {worst:.1e} of the largest value, {tolerance:.0e} is allowed")
