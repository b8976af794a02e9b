# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the CARAFE operator on the CPU, against what it replaces and other ways to write it.

All rows of a shape are run in turn, round after round, so that drift of the machine meets all alike;
medians are reported. ``--reuse-memory`` lets freed memory be handed out again, which takes the page faults of
fresh outputs out of every row (as with preallocated outputs).

Example: python tools/benchmark_op.py --rounds 9 --out work_dirs/benchmark
"""

import argparse
import ctypes
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from benchmark_peers import Inputs, eager_rows, replaced_rows
from common import InputError, run
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmcarafe.ops import carafe, cpu_implementations, use_cpu_implementation

# name: features, [N, C, H, W], of an 800 x 1344 image in an FPN, and of mask heads
SHAPES = {
    "P5": (1, 256, 25, 42),
    "P4": (1, 256, 50, 84),
    "P3": (1, 256, 100, 168),
    "P3-batch8": (8, 256, 100, 168),
    "100-rois": (100, 256, 14, 14),
    "1000-rois": (1000, 256, 14, 14),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Benchmark the CARAFE operator on the CPU")
    parser.add_argument("--shapes", nargs="+", default=["P5", "P3", "100-rois"], choices=list(SHAPES))
    parser.add_argument("--layout", choices=["contiguous", "channels_last"], default="contiguous")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each row")
    parser.add_argument(
        "--peers",
        choices=["none", "replaced", "eager", "all"],
        default="eager",
        help="what to compare with; 'all' adds torch.compile, which takes a minute a shape",
    )
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument(
        "--reuse-memory", action="store_true", help="no page faults for fresh outputs (glibc)"
    )
    parser.add_argument("--out", help="folder for benchmark.json and benchmark.png")
    return parser.parse_args()  # fmt: skip


def reuse_memory() -> None:
    """Keep glibc from returning large blocks to the system when they are freed."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        raise InputError("--reuse-memory needs glibc")
    m_trim_threshold, m_mmap_max = -1, -4
    if not (libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1)):
        raise InputError("--reuse-memory: this C library refuses the setting")


Row = tuple[str | None, Callable[[], Tensor]]  # implementation of the operator, if it is ours, and the call


def our_rows(inputs: Inputs) -> dict[str, Row]:
    """The operator with each implementation this machine has."""

    def call() -> Tensor:
        return carafe(inputs.features, inputs.masks, inputs.k, 1, inputs.scale)

    return {f"mmcarafe {name}": (name, call) for name in cpu_implementations()}


def seconds(row: Row, grad: Tensor | None = None) -> float:
    """Wall time of one call, with its backward pass if there is a gradient to send back."""
    name, call = row
    with use_cpu_implementation(name) if name else nullcontext():
        start = time.perf_counter()
        out = call()
        if grad is not None:
            out.backward(grad)
        return time.perf_counter() - start


def extra_memory(row: Row) -> int | None:
    """Peak bytes of a forward call beyond its output, from the kernel's high-water mark; Linux only."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def status(field: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc/self/status has no {field}")

    name, call = row
    with use_cpu_implementation(name) if name else nullcontext():
        before = status("VmRSS")
        reset.write_text("5")
        out = call()
    return max(0, status("VmHWM") - before - out.numel() * out.element_size())


def measure(shape: str, args: argparse.Namespace) -> list[dict]:
    """Every row of one shape: milliseconds (median, least, most) and peak extra memory."""
    results = []
    for backward in (False,) if args.forward_only else (False, True):
        inputs = Inputs.draw(SHAPES[shape], args.layout, requires_grad=backward)
        rows = our_rows(inputs)
        if args.peers != "none":
            rows |= {name: (None, call) for name, call in replaced_rows(inputs).items()}
        if args.peers in ("eager", "all"):
            compiled = args.peers == "all"
            rows |= {name: (None, call) for name, call in eager_rows(inputs, compiled).items()}
        grad = inputs.output_grad() if backward else None
        flops = inputs.flops * (3 if backward else 1)  # each gradient takes as many as the forward pass
        times = {name: [] for name in rows}
        for row in rows.values():
            seconds(row, grad)
        for _ in range(args.rounds):
            for name, row in rows.items():
                times[name].append(seconds(row, grad) * 1e3)
        for name, row in rows.items():
            results.append(
                dict(
                    shape=shape,
                    what="forward+backward" if backward else "forward",
                    row=name,
                    ms=median(times[name]),
                    least=min(times[name]),
                    most=max(times[name]),
                    extra_mb=None if backward else _megabytes(extra_memory(row)),
                    output_mb=_megabytes(inputs.output_bytes),
                    gflops=flops / median(times[name]) / 1e6 if name.startswith("mmcarafe") else None,
                )
            )
    return results


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def matmul_gflops(rounds: int) -> float:
    """What the machine reaches in a product of two 2048 x 2048 matrices of float32."""
    a = torch.randn(2048, 2048)
    a @ a
    times = [seconds((None, lambda: a @ a)) for _ in range(rounds)]
    return 2 * 2048**3 / median(times) / 1e9


def show(results: list[dict], machine: dict) -> None:
    """Print one table a shape and pass, with the ratio of each row to nearest."""
    console = Console()
    console.print(", ".join(f"{key}: {value}" for key, value in machine.items()))
    for shape, what in dict.fromkeys((r["shape"], r["what"]) for r in results):
        rows = [r for r in results if (r["shape"], r["what"]) == (shape, what)]
        nearest = next((r["ms"] for r in rows if r["row"] == "nearest"), None)
        table = Table(title=f"{shape} {SHAPES[shape]} x2, k=5, {what}")
        for column in ("", "ms", "least - most", "/ nearest", "GFLOP/s", "extra MB"):
            table.add_column(column, justify="left" if not column else "right")
        for r in sorted(rows, key=lambda r: r["ms"]):
            table.add_row(
                r["row"],
                f"{r['ms']:.1f}",
                f"{r['least']:.1f} - {r['most']:.1f}",
                f"{r['ms'] / nearest:.2f}" if nearest else "",
                f"{r['gflops']:.0f}" if r["gflops"] else "",
                f"{r['extra_mb']:.0f}" if r["extra_mb"] is not None else "",
            )
        console.print(table)


def main() -> None:
    """Measure, print, and write the files that were asked for."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.reuse_memory:
        reuse_memory()
    machine = dict(
        processor=_processor(),
        cores=os.cpu_count(),
        threads=args.threads,
        torch=torch.__version__,
        layout=args.layout,
        outputs="reused" if args.reuse_memory else "fresh",
        matmul_gflops=round(matmul_gflops(args.rounds)),
    )
    results = [row for shape in args.shapes for row in measure(shape, args)]
    show(results, machine)
    if args.out:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "benchmark.json").write_text(json.dumps(dict(machine=machine, results=results), indent=1))
        print(f"written: {folder / 'benchmark.json'}")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    run(main)
