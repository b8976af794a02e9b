# SPDX-License-Identifier: Apache-2.0
"""Importing this registers everything with mmdet: ``custom_imports=dict(imports=["mmcarafe.models"])``."""

from mmcarafe.layers import CARAFE

from .checkpoint import allow_mmengine_types
from .mask_heads import DynamicMaskHead, FCNMaskHead, HTCMaskHead, SCNetMaskHead
from .necks import FPN, FPN_CARAFE

__all__ = [
    "CARAFE",
    "FPN",
    "FPN_CARAFE",
    "DynamicMaskHead",
    "FCNMaskHead",
    "HTCMaskHead",
    "SCNetMaskHead",
]

allow_mmengine_types()
