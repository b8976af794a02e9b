# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the CARAFE operator, on a CPU or a GPU, against what it replaces and other forms.

All rows of a shape are run in turn, round after round, so that drift of the machine meets all alike; medians
are reported. Outputs are fresh memory, as in a network, unless a row says otherwise.

Examples::

    python tools/benchmark_op.py                            # a look: one FPN level, three minutes
    python tools/benchmark_op.py --all --page docs/benchmarks.md   # all of that page: half an hour
    python tools/benchmark_op.py --device cuda --memory     # a look at a GPU
"""

import argparse
import json
import os
from pathlib import Path

import torch
from benchmark import cuda as benchmark_cuda
from benchmark.measure import Row, extra_memory, in_turn, machine, matmul_row, reuse_memory, summary
from benchmark.model import model_rows
from benchmark.peers import Inputs, mmcv_row, our_rows, pytorch_rows, replaced_rows
from benchmark.readme import NAME, plot, write_readme
from benchmark.report import show, targets

from mmcarafe.ops import implementations
from mmcarafe.utils.cli import run
from mmcarafe.utils.markdown import split_section

# name: features, [N, C, H, W]: FPN levels of an 800 x 1344 image, and RoIs of a mask head
SHAPES = {
    "P2": (1, 256, 200, 336),
    "P3": (1, 256, 100, 168),
    "P4": (1, 256, 50, 84),
    "P5": (1, 256, 25, 42),
    "P3 x 8": (8, 256, 100, 168),
    "100 RoIs": (100, 256, 14, 14),
    "1000 RoIs": (1000, 256, 14, 14),
}
LAYOUTS = ("contiguous", "channels_last")
PEERS = ("none", "replaced", "eager", "compiled")  # each with those before it
DTYPES = ("float32", "float16", "bfloat16")
COMPILED_SHAPE = "P3"  # compiling takes minutes: once, for the shape of the targets


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Benchmark the CARAFE operator on the CPU or a GPU")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--shapes", nargs="+", default=["P3"], choices=list(SHAPES))
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each row; slow rows: 3")
    parser.add_argument("--peers", choices=PEERS, default="eager", help="what to compare with")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=DTYPES, help="on a GPU")
    parser.add_argument("--memory", action="store_true", help="peak memory too; always so on the CPU")
    parser.add_argument("--model", action="store_true", help="time a whole Mask R-CNN R50 too, on the CPU")
    parser.add_argument("--all", action="store_true", help="all shapes, dtypes and peers, and --model")
    parser.add_argument("--out", default="work_dirs/benchmark", help="folder for benchmark.json and .png")
    parser.add_argument("--page", help="file whose performance section is to be rewritten; needs --all")
    args = parser.parse_args(argv)
    if args.page and not args.all:
        parser.error("--page needs --all: the section shows every measurement")
    if args.threads < 1 or args.rounds < 1:
        parser.error("--threads and --rounds: expected 1 or more")
    if args.all:
        args.shapes, args.layouts, args.peers, args.model = list(SHAPES), list(LAYOUTS), PEERS[-1], True
        args.dtypes, args.memory = list(DTYPES), True
    return args


def rows_of(shape: str, layout: str, inputs: Inputs, peers: str) -> dict[str, Row]:
    """What is timed on one shape. Forms in plain PyTorch are for contiguous maps."""
    rows = our_rows(inputs)
    if peers != "none":
        rows |= replaced_rows(inputs)
        mmcv = mmcv_row(inputs)
        if isinstance(mmcv, Row):
            rows["mmcv"] = mmcv
    if layout == "contiguous" and peers in ("eager", "compiled"):
        rows |= pytorch_rows(inputs, compiled=False)
        if peers == "compiled" and shape == COMPILED_SHAPE:
            rows |= pytorch_rows(inputs, compiled=True)
    return rows


def measure(shape: str, layout: str, args: argparse.Namespace) -> list[dict]:
    """Every row of one shape: milliseconds (median, least, most), arithmetic and peak extra memory."""
    results = []
    for backward in (False, True):
        inputs = Inputs.draw(SHAPES[shape], layout, requires_grad=backward)
        rows = rows_of(shape, layout, inputs, args.peers)
        grad = inputs.output_grad() if backward else None
        flops = inputs.flops * (3 if backward else 1)  # each gradient takes as many as the forward pass
        for name, times in in_turn(rows, args.rounds, grad).items():
            result = dict(shape=shape, layout=layout, what="forward+backward" if backward else "forward")
            result |= dict(row=name) | summary(times)
            if name.startswith("mmcarafe"):
                result["gflops"] = flops / result["ms"] / 1e6
            if not backward:
                result |= dict(extra=extra_memory(rows[name]), output=inputs.output_bytes)
            results.append(result)
    return results


def scaling(args: argparse.Namespace) -> list[dict]:
    """Forward and backward pass of the best implementation with 1, 2, 4, ... threads."""
    inputs = Inputs.draw(SHAPES["P3"], "contiguous", requires_grad=True)
    row = {"mmcarafe": Row(our_rows(inputs)[f"mmcarafe {implementations('cpu')[0]}"].call)}
    results = []
    counts = [n for n in (2**i for i in range(10)) if n <= args.threads]
    for threads in counts:
        torch.set_num_threads(threads)
        results.append(
            dict(threads=threads) | summary(in_turn(row, args.rounds, inputs.output_grad())["mmcarafe"])
        )
    torch.set_num_threads(args.threads)
    return results


def reused(args: argparse.Namespace) -> dict:
    """GFLOP/s of the forward pass where outputs are reused memory, and of a matrix product; run this last."""
    reuse_memory()
    matmul, matmul_flops = matmul_row()
    rows, flops = {"matmul": matmul}, {"matmul": matmul_flops}
    for layout in args.layouts:
        inputs = Inputs.draw(SHAPES["P3"], layout, requires_grad=False)
        rows[layout] = our_rows(inputs)[f"mmcarafe {implementations('cpu')[0]}"]
        rows[f"nearest, {layout}"] = replaced_rows(inputs)["nearest"]
        flops[layout] = inputs.flops
    results = {name: summary(times) for name, times in in_turn(rows, args.rounds).items()}
    for name, count in flops.items():
        results[name]["gflops"] = count / results[name]["ms"] / 1e6
    return results


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write the files."""
    args = parse_args(argv)
    if args.device == "cuda":
        benchmark_cuda.main(args, SHAPES)
        return
    torch.set_num_threads(args.threads)
    if args.page:
        split_section(Path(args.page), NAME)  # before half an hour of measuring
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for shape in args.shapes:
        for layout in args.layouts:
            print(f"measuring {shape}, {layout}", flush=True)
            results += measure(shape, layout, args)
    mmcv = mmcv_row(Inputs.draw(SHAPES["P5"], "contiguous", requires_grad=False))
    data = dict(machine=machine(), rounds=args.rounds, results=results, scaling=scaling(args))
    data["mmcv"] = mmcv if isinstance(mmcv, str) else "runs here"
    if args.model:
        print("measuring Mask R-CNN R50", flush=True)
        data["model"] = model_rows(args.rounds)
    data["reused"] = reused(args)
    data["targets"] = targets(data)
    (folder / "benchmark.json").write_text(json.dumps(data, indent=1) + "\n")
    show(data)
    plot(data, folder / "benchmark.png")
    print(f"written: {folder / 'benchmark.json'}, {folder / 'benchmark.png'}")
    if args.page:
        write_readme(data, Path(args.page))
        print(f"rewritten: the performance section of {args.page}")


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    run(main)
