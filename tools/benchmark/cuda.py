# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the CARAFE operator on a GPU, for benchmark_op.py --device cuda.

Every row runs over several sets of inputs, together larger than twice the GPU's L2 cache, and is timed with
CUDA events in two ways: replayed from a CUDA graph, which is the GPU's own time, and called from Python,
which is what a network that is not captured waits for. Rows run in turn, round after round; medians are
reported.
"""

import json
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from benchmark.gpu import Gpu
from benchmark.peers import LARGEST, Inputs, shift_and_add
from benchmark.report_cuda import NAME, show, write_readme
from torch import Tensor, nn

from mmcarafe.ops import carafe, cuda, use_implementation
from mmcarafe.utils.markdown import split_section

OURS = ("triton", "mmcv")
COPY_BYTES = 2**30
CALLS = 40  # of a row between two events
COMPILED = "shift and add, compiled"


@dataclass
class Step:
    """One call of a row on one set of inputs, with its backward pass if there is a gradient to send back."""

    function: Callable[[Inputs], Tensor]
    inputs: Inputs
    implementation: str | None = None
    grad: Tensor | None = None

    def __call__(self) -> Tensor | tuple:
        """The output, or the gradients of features and masks; all of it by the row's implementation."""
        i = self.inputs
        with use_implementation("cuda", self.implementation) if self.implementation else nullcontext():
            out = self.function(i)
            if self.grad is None:
                return out
            return torch.autograd.grad(out, (i.features, i.masks), self.grad, allow_unused=True)


def steps(
    inputs: list[Inputs], backward: bool, compiled: bool
) -> tuple[dict[str, list[Step]], dict[str, str]]:
    """Each row's steps, one for each set of inputs, and why others are left out."""
    first = inputs[0]
    s, k, channels = first.scale, first.k, first.features.shape[1]
    deconv = nn.ConvTranspose2d(channels, channels, s, s).to(first.features).requires_grad_(backward)
    functions = {
        "nearest": lambda i: F.interpolate(i.features, scale_factor=s, mode="nearest"),
        "bilinear": lambda i: F.interpolate(i.features, scale_factor=s, mode="bilinear"),
        "deconvolution": lambda i: deconv(i.features),
    }
    left_out = {}
    for name in OURS:
        tensors = (first.features, first.masks)
        for op, given in (("carafe", tensors), ("carafe_backward", (first.output_grad(), *tensors))):
            if reason := cuda.IMPLEMENTATIONS[name].why_not(op, given, k, 1, s):
                left_out[name] = reason
        if name not in left_out:
            functions[name] = lambda i: carafe(i.features, i.masks, k, 1, s)
    if compiled and first.features.numel() > LARGEST:
        left_out[COMPILED] = f"more than {LARGEST} features take too much memory"
    elif compiled:
        torch.compiler.reset()  # recompilations are counted, and limited
        form = torch.compile(shift_and_add, dynamic=False, fullgraph=True)
        functions[COMPILED] = lambda i: form(i.features, i.masks, k, s)
    grads = [i.output_grad() if backward else None for i in inputs]
    rows = {}
    for name, function in functions.items():
        implementation = name if name in OURS else None
        rows[name] = [Step(function, i, implementation, grad) for i, grad in zip(inputs, grads, strict=True)]
    return rows, left_out


def moved_bytes(name: str, i: Inputs, backward: bool) -> int:
    """Bytes that a row has to read and write at least: each tensor once in each pass."""
    x, m = (t.numel() * t.element_size() for t in (i.features, i.masks))
    out = i.output_bytes
    if name in ("nearest", "bilinear", "deconvolution"):
        return (x + out) * (2 if backward else 1)
    return x + m + out + (out + 2 * (x + m) if backward else 0)


def measure(gpu: Gpu, shape: tuple, layout: str, dtype: str, args: Namespace) -> tuple[list[dict], dict]:
    """Results of every row of one shape, and the reasons for those left out."""
    results, left_out = [], {}
    for what in ("forward", "forward+backward"):
        backward = what != "forward"
        draw = partial(Inputs.draw, shape, layout, backward, gpu.device, getattr(torch, dtype))
        inputs = [draw()]
        sets = ceil(2 * args.l2 / moved_bytes("triton", inputs[0], False)) + 1
        inputs += [draw() for _ in range(sets - 1)]
        rows, others = steps(inputs, backward, args.peers == "compiled")
        left_out |= others
        keep = sets * inputs[0].output_bytes < 8 * args.l2  # larger outputs do not stay in the cache anyway
        graphs, memory = {}, {}
        for name, row in rows.items():
            try:
                if args.memory and not backward:
                    memory[name] = gpu.extra_memory(row[0])
                graphs[name] = gpu.captured(row, keep)
            except torch.OutOfMemoryError:
                left_out[name] = "out of memory"
        times = in_turn(gpu, {name: rows[name] for name in graphs}, graphs, args.rounds)
        for name, (replayed, called) in times.items():
            ms = median(replayed)
            result = dict(layout=layout, dtype=dtype, what=what, row=name, ms=ms, called_ms=median(called))
            result |= dict(least=min(replayed), most=max(replayed), sets=sets)
            result["gbs"] = moved_bytes(name, inputs[0], backward) / ms / 1e6
            if name in memory:
                result |= dict(extra=memory[name], output=inputs[0].output_bytes)
            results.append(result)
    return results, left_out


def in_turn(
    gpu: Gpu, rows: dict[str, list[Step]], graphs: dict[str, Callable], rounds: int
) -> dict[str, tuple[list, list]]:
    """Milliseconds of one call of each row, replayed and called from Python, round after round."""
    times: dict[str, tuple[list, list]] = {name: ([], []) for name in rows}
    for i in range(rounds + 2):  # two to warm up
        for name, row in rows.items():
            repeats = ceil(CALLS / len(row))  # so that starting a graph takes no part of the time
            count = repeats * len(row)
            replayed = gpu.milliseconds([graphs[name]] * repeats) / count
            called = gpu.milliseconds(row * repeats) / count
            if i >= 2:
                times[name][0].append(replayed)
                times[name][1].append(called)
    return times


def copy_rate(gpu: Gpu, rounds: int) -> float:
    """GB/s of a device-to-device copy, read and written bytes counted."""
    source, target = (torch.ones(COPY_BYTES, dtype=torch.uint8, device=gpu.device) for _ in range(2))
    times = [gpu.milliseconds([lambda: target.copy_(source)]) for _ in range(rounds + 2)][2:]
    return 2 * COPY_BYTES / median(times) / 1e6


def main(args: Namespace, shapes: dict[str, tuple], gpu: Gpu | None = None) -> None:
    """Measure, print, and write the files."""
    gpu = gpu or Gpu()
    gpu.check()
    if args.page:
        split_section(Path(args.page), NAME)
    machine = gpu.machine()
    args.l2 = machine["l2"]
    data = dict(machine=machine, rounds=args.rounds, copy=copy_rate(gpu, args.rounds), results=[])
    data["left_out"] = {}
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "benchmark_cuda.json"
    for shape in args.shapes:
        for layout in args.layouts:
            for dtype in args.dtypes:
                print(f"measuring {shape}, {layout}, {dtype}", flush=True)
                results, left_out = measure(gpu, shapes[shape], layout, dtype, args)
                data["results"] += [dict(shape=shape) | result for result in results]
                data["left_out"] |= {f"{name}, {shape}, {dtype}": why for name, why in left_out.items()}
        path.write_text(json.dumps(data, indent=1) + "\n")
    show(data)
    print(f"written: {path}")
    if args.page:
        write_readme(data, Path(args.page))
        print(f"rewritten: the GPU section of {args.page}")
