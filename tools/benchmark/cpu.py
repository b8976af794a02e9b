# SPDX-License-Identifier: Apache-2.0
"""Measure a CPU: wall time, peak memory; and by threads, whole models and memory that is reused."""

import ctypes
import os
import platform
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import torch
from benchmark.forms import Inputs
from benchmark.measure import Call, calls_of, in_turn
from benchmark.model import MODEL, model_functions
from benchmark.progress import Progress
from benchmark.rows import BOTH, FORWARD, LAYOUTS, SHAPES

from mmcarafe.errors import InputError
from mmcarafe.ops import implementations

MATRIX_SIDE = 2048
DOWNSAMPLING = {
    "downsampling": torch.ops.mmcarafe.carafe_downsample,
    "downsampling, gradient of features": torch.ops.mmcarafe.carafe_downsample_grad_features,
    "downsampling, gradient of masks": torch.ops.mmcarafe.carafe_downsample_grad_masks,
}
FLOAT32 = dict(layout="contiguous", dtype="float32")


class Cpu:
    """Times calls, and finds out their peak memory."""

    name = type = "cpu"
    warm_rounds = 1

    def __init__(self):
        info = Path("/proc/cpuinfo")
        model = re.search(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.M)
        name = model[1] if model else platform.processor() or platform.machine()
        self.facts = dict(
            processor=f"{name} with {torch.backends.cpu.get_cpu_capability()}",
            cores=os.cpu_count(),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
        )

    def sets(self, first: Inputs) -> int:
        """Return on how many sets of inputs a row runs: on one."""
        return 1

    def clocks(self, calls: list[Call]) -> list[Callable[[], float]]:
        """Return what times one call, milliseconds."""

        def milliseconds(call: Call = calls[0]) -> float:
            with call.chosen("cpu"):
                start = time.perf_counter()
                out = call.function(call.inputs)
                if call.grad is not None:
                    out.backward(call.grad)
                return (time.perf_counter() - start) * 1e3

        return [milliseconds]

    def rates(self, calls: list[Call], ms: float) -> dict:
        """Return GFLOP/s of the operator: each gradient takes as many operations as the forward pass."""
        if not calls[0].row.implementation:
            return {}
        return dict(gflops=calls[0].inputs.flops * (1 if calls[0].grad is None else 3) / ms / 1e6)

    def extra_memory(self, call: Call) -> int | None:
        """Return peak bytes of a forward call beyond its output, by the high-water mark; Linux only."""
        reset = Path("/proc/self/clear_refs")
        if not reset.exists():
            return None
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)  # blocks that the allocator kept would be used again unseen
        with call.chosen("cpu"):
            before = _status("VmRSS")
            reset.write_text("5")
            out = call.function(call.inputs)
        return max(0, _status("VmHWM") - before - out.nbytes)


def _status(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s*(\d+)", status, re.M)[1]) * 1024


def expected_seconds_of_more(args: Namespace) -> list[float]:
    """Guess how long each part of :func:`measure_more` takes with two threads."""
    return [2, *([60] if args.model else []), 4]


def measure_more(cpu: Cpu, args: Namespace, progress: Progress) -> Iterator[tuple[list[dict], list[dict]]]:
    """Yield results by threads, of whole models, and with memory that is reused from then on."""
    best = f"mmcarafe {implementations('cpu')[0]}"
    case = dict(shape="P3", what=BOTH, **FLOAT32)
    calls, _ = calls_of(cpu, "none", **case)
    progress.begin("P3 by threads")
    results = []
    for threads in (2**i for i in range(args.threads.bit_length())):
        torch.set_num_threads(threads)
        (result,) = in_turn(cpu, {best: calls[best]}, args.rounds, progress=progress).values()
        results.append(case | dict(what=f"{BOTH} by threads", row=str(threads)) | result)
    torch.set_num_threads(args.threads)
    yield results, []
    if args.model:
        progress.begin(MODEL)
        calls = {name: [Call(function)] for name, function in model_functions().items()}
        case = dict(shape=MODEL, what=FORWARD, **FLOAT32)
        found = in_turn(cpu, calls, args.rounds, progress=progress)
        yield [case | dict(row=name) | r for name, r in found.items()], []
    progress.begin("P3, memory reused")
    reuse_memory()
    a = torch.randn(MATRIX_SIDE, MATRIX_SIDE)
    calls = {("contiguous", "matrix product"): [Call(lambda _: a @ a)]}
    for layout in args.layouts:
        rows, _ = calls_of(cpu, "replaced", "P3", layout, "float32", FORWARD)
        calls |= {(layout, name): rows[name] for name in (best, "nearest")}
        calls |= {(layout, name): [Call(op)] for name, op in downsampling(layout).items()}
    results = []
    for (layout, name), result in in_turn(cpu, calls, args.rounds, progress=progress).items():
        if name == "matrix product":
            result["gflops"] = 2 * MATRIX_SIDE**3 / result["ms"] / 1e6
        elif name in DOWNSAMPLING:
            result["gflops"] = 2 * 25 * prod(SHAPES["P3"]) / result["ms"] / 1e6
        else:
            result |= cpu.rates(calls[layout, name], result["ms"])
        case = dict(shape="P3", layout=layout, dtype="float32", what=f"{FORWARD}, memory reused", row=name)
        results.append(case | result)
    yield results, []


def downsampling(layout: str) -> dict[str, Callable]:
    """Return a call of each downsampling op that belongs to making P3 of a map of twice its size."""
    N, C, H, W = SHAPES["P3"]
    memory_format = dict(zip(LAYOUTS, (torch.contiguous_format, torch.channels_last), strict=True))[layout]
    features, masks, grad = (
        torch.randn(shape).contiguous(memory_format=memory_format)
        for shape in ((N, C, 2 * H, 2 * W), (N, 25, H, W), (N, C, H, W))
    )
    tensors = (features, masks), (grad, masks), (grad, features)
    return {
        name: lambda _, op=op, given=given: op(*given, 5, 1, 2)
        for (name, op), given in zip(DOWNSAMPLING.items(), tensors, strict=True)
    }


def reuse_memory() -> None:
    """Hand freed blocks out again from here on: as with preallocated outputs, no call waits for pages."""
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4
    if not hasattr(libc, "mallopt"):
        raise InputError("reused memory can be measured with glibc only")
    if not (libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1)):
        raise InputError("this C library refuses to keep freed memory")
