# SPDX-License-Identifier: Apache-2.0
"""The operator; imports nothing but torch."""

from . import cpu
from .carafe import carafe
from .carafe_downsample import carafe_downsample
from .implementations import implementations, use_implementation

cpu.load()

__all__ = ["carafe", "carafe_downsample", "implementations", "use_implementation"]
