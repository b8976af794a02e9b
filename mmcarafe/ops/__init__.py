# SPDX-License-Identifier: Apache-2.0
"""The operator; imports nothing but torch."""

from . import cpu
from .carafe import carafe
from .implementations import implementations, use_implementation

cpu.load()

__all__ = ["carafe", "implementations", "use_implementation"]
