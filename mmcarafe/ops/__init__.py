# SPDX-License-Identifier: Apache-2.0
"""The operator; imports nothing but torch."""

from . import native
from .carafe import carafe
from .native import cpu_implementations, use_cpu_implementation

native.load()

__all__ = ["carafe", "cpu_implementations", "use_cpu_implementation"]
