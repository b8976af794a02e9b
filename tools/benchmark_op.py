# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the CARAFE operator, on a CPU or a GPU, against what it replaces and other forms.

With ``--upsamplers``, and with ``--all`` on a CPU, every type of ``upsample_cfg`` at the steps of an FPN too.

All rows of a shape are run in turn, round after round, so that drift of the machine meets all alike; medians
are reported. Outputs are fresh memory, as in a network, unless a row says otherwise.

Examples::

    python tools/benchmark_op.py                            # a look: one FPN level, three minutes
    python tools/benchmark_op.py --upsamplers --page docs/benchmarks.md   # its table of types: minutes
    python tools/benchmark_op.py --all --page docs/benchmarks.md   # all of that page: over half an hour
    python tools/benchmark_op.py --from docs/benchmarks.json --page docs/benchmarks.md   # measure nothing
    python tools/benchmark_op.py --device cuda --memory     # a look at a GPU
"""

import argparse
import os
import shlex
import sys
from argparse import Namespace
from itertools import chain
from pathlib import Path

import torch
from benchmark.cpu import Cpu, expected_seconds_of_more, measure_more
from benchmark.gpu import Gpu
from benchmark.measure import expected_seconds_of, measure
from benchmark.page import NAMES, PLOT, plot, read, save, write_page
from benchmark.progress import Progress
from benchmark.report import show
from benchmark.rows import DTYPES, LAYOUTS, PEERS, SHAPES
from benchmark.upsamplers import LEVELS, measure_upsamplers

from mmcarafe.errors import InputError
from mmcarafe.utils.cli import run
from mmcarafe.utils.markdown import split_section


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Benchmark the CARAFE operator on the CPU or a GPU")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--shapes", nargs="+", choices=list(SHAPES), help="default: P3, of --upsamplers P3, P4 and P5"
    )
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each row; slow rows: 3")
    parser.add_argument("--peers", choices=PEERS, default="eager", help="what to compare with")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=DTYPES, help="on a GPU")
    parser.add_argument("--memory", action="store_true", help="peak memory too; always so on the CPU")
    parser.add_argument("--model", action="store_true", help="time a whole Mask R-CNN R50 too, on the CPU")
    parser.add_argument("--upsamplers", action="store_true", help="the table of types alone, on the CPU")
    parser.add_argument("--all", action="store_true", help="all shapes, dtypes and peers, and --model")
    parser.add_argument("--out", default="work_dirs/benchmark", help="folder for benchmark.json and .png")
    parser.add_argument("--page", help="file whose section is rewritten, with the .json beside it")
    parser.add_argument("--from", dest="source", help="a run's benchmark.json: show it, measure nothing")
    args = parser.parse_args(argv)
    args.options = shlex.join(sys.argv[1:] if argv is None else argv)
    if args.page and not (args.all or args.upsamplers or args.source):
        parser.error("--page needs --all or --upsamplers: the section shows every measurement")
    if args.upsamplers and args.device != "cpu":
        parser.error("--upsamplers: the types are compared on the CPU")
    if args.threads < 1 or args.rounds < 1:
        parser.error("--threads and --rounds: expected 1 or more")
    args.shapes = args.shapes or (list(LEVELS) if args.upsamplers else ["P3"])
    if args.all:
        args.shapes, args.layouts, args.peers, args.model = list(SHAPES), list(LAYOUTS), PEERS[-1], True
        args.dtypes, args.memory = list(DTYPES), True
    return args


def tables_of(args: Namespace) -> list[str]:
    """Return the sections of the page to measure or show: "cpu" is the last, as it ends in reused memory."""
    if args.device == "cuda":
        return ["cuda"]
    if args.upsamplers:
        return ["upsamplers"]
    return ["upsamplers", "cpu"] if args.all or args.source else ["cpu"]


def settings_of(table: str, args: Namespace) -> Namespace:
    """Return what to measure for a section."""
    fixed = {}
    if table != "cuda":
        fixed = dict(dtypes=["float32"], memory=True)
    if table == "upsamplers":
        fixed |= dict(peers="replaced", shapes=LEVELS if args.all else args.shapes)
    return Namespace(**vars(args) | fixed)


def run_all(args: Namespace) -> dict[str, dict]:
    """Run every row and return what was measured, by section, which is written after each shape."""
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    device = Gpu() if args.device == "cuda" else Cpu()
    tables = {table: settings_of(table, args) for table in tables_of(args)}
    expected = [seconds for settings in tables.values() for seconds in expected_seconds_of(settings)]
    progress = Progress(expected + (expected_seconds_of_more(args) if "cpu" in tables else []))
    found = {}
    for table, settings in tables.items():
        data = found[table] = dict(
            machine=device.facts, options=args.options, rounds=args.rounds, results=[], left_out=[]
        )
        parts = (measure_upsamplers if table == "upsamplers" else measure)(device, settings, progress)
        for results, left_out in chain(
            parts, measure_more(device, settings, progress) if table == "cpu" else ()
        ):
            data["results"] += results
            data["left_out"] += left_out
            save(Path(args.out) / "benchmark.json", table, data)
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure, or read what was, print it, and write the files."""
    args = parse_args(argv)
    found = read(Path(args.source)) if args.source else {}
    tables = [table for table in tables_of(args) if table in found or not args.source]
    if not tables:
        raise InputError(f"--from {args.source}: expected a file of measurements on {args.device}")
    for table in tables if args.page else ():
        split_section(Path(args.page), NAMES[table])  # before half an hour of measuring
    found = found or run_all(args)
    for table in tables:
        show(table, found[table])
    if not args.source:
        print(f"written: {Path(args.out) / 'benchmark.json'}")
        if "cpu" in tables:
            plot(found["cpu"], Path(args.out) / PLOT)
    for table in tables if args.page else ():
        write_page(Path(args.page), table, found[table])
        print(f"rewritten: a section of {args.page}, and the measurements beside it")


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    run(main)
