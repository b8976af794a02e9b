# SPDX-License-Identifier: Apache-2.0
"""Importing this registers everything with mmdet: ``custom_imports=dict(imports=["mmcarafe.models"])``."""

import mmcarafe.visualization  # noqa: F401  registers the hook
from mmcarafe.layers import CARAFE

from . import amp, logger, resume  # noqa: F401  register hooks and the optimizer wrapper
from .by_class import replace_given_classes
from .checkpoint import allow_mmengine_types
from .class_counts import NumClassCheckHook  # noqa: F401  registered
from .datasets import CocoDataset, CocoMetric  # noqa: F401  registered
from .dense_heads import BoxInstMaskHead, CondInstMaskHead, RTMDetInsHead, RTMDetInsSepBNHead, SOLOV2Head
from .loading import Resize  # noqa: F401  registered
from .mask_heads import DynamicMaskHead, FCNMaskHead, HTCMaskHead, SCNetMaskHead
from .more_necks import BFP, FPG, HRFPN, NASFCOS_FPN, YOLOXPAFPN, CSPNeXtPAFPN, YOLOV3Neck
from .necks import FPN, FPN_CARAFE, PAFPN, FPN_DropBlock
from .seg_heads import (
    FusedSemanticHead,
    MaskFormerHead,
    MSDeformAttnPixelDecoder,
    PanopticFPNHead,
    PixelDecoder,
    SCNetSemanticHead,
    TransformerEncoderPixelDecoder,
)

__all__ = [
    "BFP",
    "CARAFE",
    "FPG",
    "FPN",
    "FPN_CARAFE",
    "HRFPN",
    "NASFCOS_FPN",
    "PAFPN",
    "YOLOXPAFPN",
    "BoxInstMaskHead",
    "CSPNeXtPAFPN",
    "CondInstMaskHead",
    "DynamicMaskHead",
    "FCNMaskHead",
    "FPN_DropBlock",
    "FusedSemanticHead",
    "HTCMaskHead",
    "MSDeformAttnPixelDecoder",
    "MaskFormerHead",
    "PanopticFPNHead",
    "PixelDecoder",
    "RTMDetInsHead",
    "RTMDetInsSepBNHead",
    "SCNetMaskHead",
    "SCNetSemanticHead",
    "SOLOV2Head",
    "TransformerEncoderPixelDecoder",
    "YOLOV3Neck",
]

allow_mmengine_types()
replace_given_classes()
