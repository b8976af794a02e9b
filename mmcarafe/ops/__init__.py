# SPDX-License-Identifier: Apache-2.0
"""The operator; imports nothing but torch."""

from . import native
from .carafe import carafe
from .cuda import cuda_implementations, use_cuda_implementation
from .native import cpu_implementations, use_cpu_implementation

native.load()

__all__ = [
    "carafe",
    "cpu_implementations",
    "cuda_implementations",
    "use_cpu_implementation",
    "use_cuda_implementation",
]
