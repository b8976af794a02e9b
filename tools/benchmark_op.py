# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the CARAFE operator, on a CPU or a GPU, against what it replaces and other forms.

All rows of a shape are run in turn, round after round, so that drift of the machine meets all alike; medians
are reported. Outputs are fresh memory, as in a network, unless a row says otherwise.

Examples::

    python tools/benchmark_op.py                            # a look: one FPN level, three minutes
    python tools/benchmark_op.py --all --page docs/benchmarks.md   # all of that page: half an hour
    python tools/benchmark_op.py --from docs/benchmarks.json --page docs/benchmarks.md   # measure nothing
    python tools/benchmark_op.py --device cuda --memory     # a look at a GPU
"""

import argparse
import os
from itertools import chain
from pathlib import Path

import torch
from benchmark.cpu import Cpu, measure_more
from benchmark.gpu import Gpu
from benchmark.measure import measure
from benchmark.page import NAMES, PLOT, plot, read, save, write_page
from benchmark.report import show
from benchmark.rows import DTYPES, LAYOUTS, PEERS, SHAPES

from mmcarafe.errors import InputError
from mmcarafe.utils.cli import run
from mmcarafe.utils.markdown import split_section


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
    parser.add_argument("--page", help="file whose section is rewritten, with the .json beside it")
    parser.add_argument("--from", dest="source", help="a run's benchmark.json: show it, measure nothing")
    args = parser.parse_args(argv)
    if args.page and not (args.all or args.source):
        parser.error("--page needs --all: the section shows every measurement")
    if args.threads < 1 or args.rounds < 1:
        parser.error("--threads and --rounds: expected 1 or more")
    if args.all:
        args.shapes, args.layouts, args.peers, args.model = list(SHAPES), list(LAYOUTS), PEERS[-1], True
        args.dtypes, args.memory = list(DTYPES), True
    return args


def run_all(args: argparse.Namespace) -> dict:
    """Run every row and return what was measured, which is written after each shape."""
    if args.device == "cuda":
        device = Gpu()
        parts = measure(device, args)
    else:
        torch.set_num_threads(args.threads)
        device, args.dtypes, args.memory = Cpu(), ["float32"], True
        parts = chain(measure(device, args), measure_more(device, args))
    data = dict(machine=device.facts, rounds=args.rounds, results=[], left_out=[])
    for results, left_out in parts:
        data["results"] += results
        data["left_out"] += left_out
        save(Path(args.out) / "benchmark.json", args.device, data)
    return data


def main(argv: list[str] | None = None) -> None:
    """Measure, or read what was, print it, and write the files."""
    args = parse_args(argv)
    if args.page:
        split_section(Path(args.page), NAMES[args.device])  # before half an hour of measuring
    data = read(Path(args.source)).get(args.device) if args.source else run_all(args)
    if data is None:
        raise InputError(f"--from {args.source}: expected a file of measurements on {args.device}")
    show(data)
    if not args.source:
        print(f"written: {Path(args.out) / 'benchmark.json'}")
        if args.device == "cpu":
            plot(data, Path(args.out) / PLOT)
    if args.page:
        write_page(Path(args.page), args.device, data)
        print(f"rewritten: a section of {args.page}, and the measurements beside it")


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    run(main)
