# SPDX-License-Identifier: Apache-2.0
"""The CARAFE module and the builder of upsamplers; imports torch, mmengine and mmcv.cnn."""

from .build import UpsampleConfigError, build_upsample
from .carafe import CARAFE
from .flops import carafe_flops

__all__ = ["CARAFE", "UpsampleConfigError", "build_upsample", "carafe_flops"]
