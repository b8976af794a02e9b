# SPDX-License-Identifier: Apache-2.0
"""Starts Triton kernels, one at a time.

Triton compiles, loads and times kernels without locks, and autograd has a thread for each GPU.
"""

import threading
from collections.abc import Callable

_LOCK = threading.Lock()


def start(kernel, grid: Callable[[dict], tuple[int]], args: tuple, constants: dict) -> None:
    """Start a kernel, compiled if need be."""
    with _LOCK:
        kernel[grid](*args, **constants)
