# SPDX-License-Identifier: Apache-2.0
"""The CARAFE module, the builder of upsamplers, and looking at kernels; imports torch, mmengine, mmcv.cnn."""

from .build import UpsampleConfigError, build_upsample
from .carafe import CARAFE
from .flops import carafe_flops
from .kernels import Reassembly, entropy, record, trace

__all__ = [
    "CARAFE",
    "Reassembly",
    "UpsampleConfigError",
    "build_upsample",
    "carafe_flops",
    "entropy",
    "record",
    "trace",
]
