# SPDX-License-Identifier: Apache-2.0
"""How benchmark_op.py measures: rows in turn, medians, peak memory, and what the machine can do at best."""

import ctypes
import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from mmcarafe.errors import InputError
from mmcarafe.ops import use_implementation

SLOW = 0.5  # seconds; rows slower than this are called SLOW_ROUNDS times
SLOW_ROUNDS = 3


@dataclass
class Row:
    """Something to time: a call, and the implementation of the operator it runs with, if it is ours."""

    call: Callable[[], Tensor]
    implementation: str | None = None

    def chosen(self):
        """Context in which the call runs."""
        return use_implementation("cpu", self.implementation) if self.implementation else nullcontext()


def seconds(row: Row, grad: Tensor | None = None) -> float:
    """Wall time of one call, with its backward pass if there is a gradient to send back."""
    with row.chosen():
        start = time.perf_counter()
        out = row.call()
        if grad is not None:
            out.backward(grad)
        return time.perf_counter() - start


def in_turn(rows: dict[str, Row], rounds: int, grad: Tensor | None = None) -> dict[str, list[float]]:
    """Milliseconds of each row: round after round, after one call of each that is not counted."""
    warm = {name: seconds(row, grad) for name, row in rows.items()}
    times = {name: [] for name in rows}
    for i in range(rounds):
        for name, row in rows.items():
            if i < SLOW_ROUNDS or warm[name] < SLOW:
                times[name].append(seconds(row, grad) * 1e3)
    return times


def extra_memory(row: Row) -> int | None:
    """Peak bytes of a forward call beyond its output, from the kernel's high-water mark; Linux only."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # blocks that the allocator kept would be used again unseen
    with row.chosen():
        before = _status("VmRSS")
        reset.write_text("5")
        out = row.call()
    return max(0, _status("VmHWM") - before - out.numel() * out.element_size())


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def reuse_memory() -> None:
    """Hand freed blocks out again from here on: as with preallocated outputs, no call waits for pages."""
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4
    if not hasattr(libc, "mallopt"):
        raise InputError("reused memory can be measured with glibc only")
    if not (libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1)):
        raise InputError("this C library refuses to keep freed memory")


def matmul_row() -> tuple[Row, int]:
    """A product of two 2048 x 2048 matrices of float32, and its number of floating-point operations."""
    a = torch.randn(2048, 2048)
    return Row(lambda: a @ a), 2 * 2048**3


def machine() -> dict:
    """What the figures depend on."""
    return dict(
        processor=_processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    flags = ""
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        if "avx512f" in fields.get("flags", ""):
            flags = " with AVX-512"
        if "model name" in fields:
            return fields["model name"] + flags
    return platform.processor() or platform.machine()


def summary(times: list[float]) -> dict:
    """Median and spread, in milliseconds."""
    return dict(ms=median(times), least=min(times), most=max(times), calls=len(times))
