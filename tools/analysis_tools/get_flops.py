# SPDX-License-Identifier: Apache-2.0
"""Parameters and floating-point operations of a model, by component, and against another one.

One image goes through the model on the CPU, and torch's counter counts what runs (a multiply-add as
two); CARAFE modules are counted by the paper's formula. The heads of two-stage detectors are counted for as
many RoIs as the settings for tests allow: those of the proposals in box heads, of the detections in mask
heads. Of a semi-supervised detector the one that predicts is counted.

Examples::

    python tools/analysis_tools/get_flops.py configs/carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py
    python tools/analysis_tools/get_flops.py configs/carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py \
        --against mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py --shape 800 1344
"""

import argparse

from rich.console import Console
from rich.table import Table

from mmcarafe.analysis.flops import CARAFES, Cost, count, total
from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.deploy.network import MULTIPLE
from mmcarafe.utils.cli import add_cfg_options, run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Count a model's parameters and operations")
    parser.add_argument(
        "config", help="file, or one of mmdet's: mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    )
    parser.add_argument("--against", metavar="CONFIG2", help="config to print the difference to")
    parser.add_argument(
        "--shape", nargs="+", type=int, default=[800, 1344], metavar="N", help="height, width"
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if len(args.shape) > 2 or min(args.shape) < 1:
        parser.error(f"--shape: expected a height and a width, 1 or more, got {args.shape}")
    args.shape = [-(-size // MULTIPLE) * MULTIPLE for size in (args.shape * 2)[:2]]
    return args


def show(
    config: str, ours: dict[str, Cost], against: str | None, theirs: dict[str, Cost], shape: list
) -> None:
    """Print a line for each component."""
    table = Table(
        "component", title=f"one image of {shape[0]} x {shape[1]}; a multiply-add is two operations"
    )
    for more in ("", "", "more ") if against else ("",):
        table.add_column(f"{more}parameters, M", justify="right")
        table.add_column(f"{more}GFLOPs", justify="right")

    def row(name: str, mine: Cost, other: Cost) -> None:
        cells = []
        for cost, sign in ((mine, ""), (other, ""), (mine - other, "+")) if against else ((mine, ""),):
            cells += [f"{cost.parameters / 1e6:{sign}.3f}", f"{cost.flops / 1e9:{sign}.2f}"]
        table.add_row(name, *cells)

    for name in dict.fromkeys([*ours, *theirs]):
        if name != CARAFES:
            row(name, ours.get(name, Cost()), theirs.get(name, Cost()))
    table.add_section()
    row("together", total(ours), total(theirs))
    if CARAFES in ours or CARAFES in theirs:
        row(CARAFES, ours.get(CARAFES, Cost()), theirs.get(CARAFES, Cost()))
    console = Console(width=120)
    console.print(table)
    console.print(f"left: {config}" + (f"\nright: {against}" if against else ""), soft_wrap=True)
    console.print(
        "Counted: convolutions, linear layers, attention, reassembly, bilinear sampling. Not counted: "
        "deformable convolutions, normalisation, activations, RoIAlign, NMS, pasting of masks. A component "
        "with parameters and no operations does not run in the raw forward pass, or only looks up or "
        "normalises.",
        soft_wrap=True,
    )


def main(argv: list[str] | None = None) -> None:
    """Count and print."""
    args = parse_args(argv)
    ours = count(build_model(read_config(args.config, args.cfg_options)), args.shape)
    theirs = count(build_model(read_config(args.against)), args.shape) if args.against else {}
    show(args.config, ours, args.against, theirs, args.shape)


if __name__ == "__main__":
    run(main)
