# SPDX-License-Identifier: Apache-2.0
"""The upsamplers and their builder; imports torch and mmengine, and mmcv.cnn where one is built."""

from mmcarafe.errors import UpsampleConfigError

from .build_upsample import TYPES, build_upsample
from .carafe import CARAFE
from .dlu import DLU
from .dysample import DySample
from .fade import FADE
from .flops import carafe_flops
from .sapa import SAPA

__all__ = [
    "CARAFE",
    "DLU",
    "FADE",
    "SAPA",
    "TYPES",
    "DySample",
    "UpsampleConfigError",
    "build_upsample",
    "carafe_flops",
]
