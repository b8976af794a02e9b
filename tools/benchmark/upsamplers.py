# SPDX-License-Identifier: Apache-2.0
"""The table of upsamplers: every type of ``upsample_cfg`` at the steps of an FPN, on a CPU."""

from argparse import Namespace
from collections.abc import Iterator

import torch
from benchmark.cpu import Cpu
from benchmark.forms import Inputs
from benchmark.measure import measure
from benchmark.progress import Progress
from benchmark.rows import SHAPES, Row, layer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmcarafe.layers import TYPES, build_upsample

LEVELS = ("P3", "P4", "P5")
"""What an FPN enlarges."""

KINDS = list({id(row): kind for kind, row in TYPES.items()}.values())
"""Each type once: of the names of one module the last."""


def build(kind: str, channels: int, scale: int) -> nn.Module:
    """Build an upsampler of this type, with a guide of as many channels where it takes one."""
    return build_upsample(dict(type=kind), channels, scale, guide_channels=channels)


def rows_of(*unused) -> tuple[dict[str, Row], dict[str, str]]:
    """Return a row of each type, and that none is left out."""
    return {kind: layer(lambda C, s, kind=kind: build(kind, C, s)) for kind in KINDS}, {}


def costs(kind: str, shape: str) -> dict:
    """Return parameters, and 10**9 operations of one forward pass, a multiply-add as two."""
    N, C, H, W = SHAPES[shape]
    s = Inputs.scale
    with torch.device("meta"):
        module = build(kind, C, s)
        maps = [torch.empty(N, C, H, W), torch.empty(N, C, s * H, s * W)][: 1 + TYPES[kind].guided]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*maps)
    parameters = sum(p.numel() for p in module.parameters())
    return dict(parameters=parameters, gflop=counter.get_total_flops() / 1e9)


def measure_upsamplers(
    cpu: Cpu, args: Namespace, progress: Progress
) -> Iterator[tuple[list[dict], list[dict]]]:
    """Yield results of each shape and layout, with what each type costs."""
    for results, left_out in measure(cpu, args, progress, rows_of):
        yield [r | costs(r["row"], r["shape"]) for r in results], left_out
