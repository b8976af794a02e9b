# SPDX-License-Identifier: Apache-2.0
"""Forward and backward steps over changing sizes, with the resident memory of the process sampled.

    python tests/soak.py [layer|fpn] [--steps 2000]

Prints a table, the slope of the memory after warm-up (least squares, MiB in 1000 steps) and what is left when
glibc has given its free memory back; exits with 1 where the slope is above LIMIT. Linux only.

The sizes change from step to step but come from a fixed set: torch's convolutions keep something for each new
size they meet, without CARAFE too. Blocks of 64 KiB and more are returned at once (MALLOC_MMAP_THRESHOLD_);
otherwise glibc keeps a fragmented heap of them, which hides a leak.
"""

import argparse
import ctypes
import os
import random
import statistics
import sys

import torch
from torch import Tensor, nn

# MiB in 1000 steps: 4 KiB a step, a sixteenth of the smallest output
LIMIT = 4.0
SAMPLES = 100
SIZES = [(4 * random.Random(i).randint(4, 24), 4 * random.Random(-i - 1).randint(4, 24)) for i in range(16)]
PRINTED = 10


def layer() -> tuple[nn.Module, list[int]]:
    """The layer, and the strides of its inputs."""
    from mmcarafe.layers import CARAFE

    return CARAFE(channels=32, compressed_channels=8), [1]


def fpn() -> tuple[nn.Module, list[int]]:
    """mmdet's FPN with CARAFE on three levels."""
    from mmcarafe.models import FPN

    upsample_cfg = dict(type="CARAFE", compressed_channels=8)
    return FPN([8, 16, 32], 16, num_outs=4, upsample_cfg=upsample_cfg), [1, 2, 4]


def inputs(module: nn.Module, strides: list[int]) -> list[Tensor]:
    """A batch of 1 or 2 maps of 16 to 96 pixels a side, contiguous or channels-last."""
    N, (H, W) = random.randint(1, 2), random.choice(SIZES)
    channels = getattr(module, "in_channels", None) or [module.channels]
    memory_format = random.choice([torch.contiguous_format, torch.channels_last])
    return [
        torch.randn(N, C, H // s, W // s).contiguous(memory_format=memory_format).requires_grad_()
        for C, s in zip(channels, strides, strict=True)
    ]


def step(module: nn.Module, strides: list[int]) -> None:
    """One forward and backward pass."""
    maps = inputs(module, strides)
    out = module(maps) if len(maps) > 1 else [module(*maps)]
    module.zero_grad()
    sum(o.square().mean() for o in out).backward()


def resident() -> float:
    """Memory of this process that is in RAM, in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(kind: str, steps: int) -> float:
    """Run, print, and return the slope after the first quarter, which warms up."""
    module, strides = {"layer": layer, "fpn": fpn}[kind]()
    random.seed(0)
    memory = {}
    for number in range(1, steps + 1):
        step(module, strides)
        if number % max(1, steps // SAMPLES) == 0:
            memory[number] = resident()
    flat = {number: size for number, size in memory.items() if number > steps // 4}
    slope = 1000 * statistics.linear_regression(list(flat), list(flat.values())).slope
    print(f"{kind}: steps -> MiB")
    for number in [*list(memory)[:: max(1, len(memory) // PRINTED)], steps]:
        print(f"{number:7d} {memory[number]:9.1f}")
    print(
        f"after warm-up {min(flat.values()):.1f} to {max(flat.values()):.1f} MiB, slope {slope:+.2f} MiB/1000"
    )
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
        print(f"{resident():.1f} MiB when free memory is given back")
    return slope


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=["layer", "fpn"], default="layer")
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # read when a process starts
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    slope = soak(args.kind, args.steps)
    if slope > LIMIT:
        sys.exit(f"memory grows by {slope:.2f} MiB in 1000 steps, more than {LIMIT}")
