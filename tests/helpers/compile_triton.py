# SPDX-License-Identifier: Apache-2.0
"""Compiles the Triton kernels for a GPU that need not be there, as they would be for given calls.

    python compile_triton.py '["cuda", 90, 32]' '[{"shape": [1, 256, 100, 168], "k": 5, ...}, ...]'

Runs the launchers with kernels that are compiled in place of started; prints a JSON list with one entry for
each kernel: the assembler's report, the widths of global loads, stores and copies, the size of the binary.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

from mmcarafe.ops import triton_backend, triton_dot_backend, triton_starting

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


TILES = dict(triton_backend.TILES)


class Driver:
    """What Triton asks of a driver to know its target."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def assembler_report(cubin: bytes) -> dict:
    """What the assembler noted of registers, and of the memory that it spills to."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    used = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", done.stdout)}
    return dict(registers=used["REG"], spills=used["STACK"] + used["LOCAL"])


def report(name: str, case: dict, kernel, target: GPUTarget) -> dict:
    """One compiled kernel."""
    found = dict(kernel=name, case=case, shared=kernel.metadata.shared)
    if target.backend == "cuda":
        ptx = kernel.asm["ptx"]
        found |= assembler_report(kernel.asm["cubin"])
        found["copies"] = sorted(
            {int(size, 0) for size in re.findall(r"cp\.async\S+ \[.*?\], \[.*?\], (\w+)", ptx)}
        )
        found["vectors"] = sorted(set(re.findall(r"ld\.global\S*\.(v[24]\.b\d+)", ptx)))
        found["stores"] = sorted(set(re.findall(r"st\.global\S*\.(v[24]\.b\d+)", ptx)))
        found["binary"] = len(kernel.asm["cubin"])
    else:
        counts = re.findall(r"\.[sv]gpr_spill_count: +(\d+)", kernel.asm["amdgcn"])
        assert len(counts) == 2, counts
        found |= dict(spills=sum(map(int, counts)), binary=len(kernel.asm["hsaco"]))
    return found


def compile_case(case: dict, target: GPUTarget) -> list[dict]:
    """All three kernels for one call of an operator; ``shape`` is that of the smaller map."""
    found = []

    def compile_only(kernel, grid, args, constants):
        compiled = kernel.warmup(*args, grid=(1,), **constants)
        found.append(report(kernel.fn.__name__, case, compiled, target))

    triton_starting.start = compile_only
    capability = None
    if case.get("dot", True) and target.backend == "cuda":
        capability = divmod(target.arch, 10)
    triton_dot_backend._with_tensor_cores = lambda t: capability
    for key, tiles in TILES.items():
        triton_backend.TILES[key] = tiles[case.get("tile", 0) :] or tiles
    memory_format = getattr(torch, case["memory_format"])
    dtype, (N, C, H, W) = getattr(torch, case["dtype"]), case["shape"]
    k, groups, s = case["k"], case["groups"], case["scale"]

    def empty(*size):
        return torch.empty(size, dtype=dtype, memory_format=memory_format)

    smaller, larger = (N, C, H, W), (N, C, s * H, s * W)
    if case["down"]:
        features, masks, grad = empty(*larger), empty(N, groups * k * k, H, W), empty(*smaller)
        forward, to_features, to_masks = triton_backend.DOWNSAMPLE_KERNELS.values()
    else:
        features, masks, grad = empty(*smaller), empty(N, groups * k * k, s * H, s * W), empty(*larger)
        forward, to_features, to_masks = (
            triton_backend.carafe,
            triton_backend.grad_features,
            triton_backend.grad_masks,
        )
    forward(features, masks, k, groups, s)
    to_features(grad, masks, k, groups, s)
    to_masks(grad, features, k, groups, s)
    return found


if __name__ == "__main__":
    gpu = GPUTarget(*json.loads(sys.argv[1]))
    triton.runtime.driver.set_active(Driver(gpu))
    print(json.dumps([entry for case in json.loads(sys.argv[2]) for entry in compile_case(case, gpu)]))
