# SPDX-License-Identifier: Apache-2.0
"""The resamplers and their builders; imports torch, and mmengine where it is installed, to register them."""

from mmcarafe.errors import DownsampleConfigError, UpsampleConfigError

from .build_downsample import build_downsample
from .build_upsample import build_upsample
from .carafe import CARAFE
from .carafe_downsample import CARAFEDownsample
from .dlu import DLU
from .dysample import DySample
from .fade import FADE
from .flops import carafe_flops
from .sapa import SAPA
from .upsample_types import TYPES

__all__ = [
    "CARAFE",
    "DLU",
    "FADE",
    "SAPA",
    "TYPES",
    "CARAFEDownsample",
    "DownsampleConfigError",
    "DySample",
    "UpsampleConfigError",
    "build_downsample",
    "build_upsample",
    "carafe_flops",
]
