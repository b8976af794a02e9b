# SPDX-License-Identifier: Apache-2.0
"""The CARAFE module and the builder of upsamplers; imports torch, mmengine, mmcv.cnn."""

from mmcarafe.errors import UpsampleConfigError

from .build_upsample import build_upsample
from .carafe import CARAFE
from .flops import carafe_flops

__all__ = ["CARAFE", "UpsampleConfigError", "build_upsample", "carafe_flops"]
