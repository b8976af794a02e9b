# SPDX-License-Identifier: Apache-2.0
"""Importing this registers everything with mmdet: ``custom_imports=dict(imports=["mmcarafe.models"])``."""

from mmcarafe import checkpoint, datasets, engine  # register themselves
from mmcarafe.layers import CARAFE
from mmcarafe.utils.registry import replace_given_classes

from .dense_heads import BoxInstMaskHead, CondInstMaskHead, RTMDetInsHead, RTMDetInsSepBNHead, SOLOV2Head
from .fpg import FPG
from .mask_heads import DynamicMaskHead, FCNMaskHead, HTCMaskHead, SCNetMaskHead
from .necks import (
    BFP,
    FPN,
    FPN_CARAFE,
    HRFPN,
    NASFCOS_FPN,
    PAFPN,
    YOLOXPAFPN,
    CSPNeXtPAFPN,
    FPN_DropBlock,
    YOLOV3Neck,
)
from .pixel_decoders import (
    MaskFormerHead,
    MSDeformAttnPixelDecoder,
    PixelDecoder,
    TransformerEncoderPixelDecoder,
)
from .seg_heads import FusedSemanticHead, PanopticFPNHead, SCNetSemanticHead

__all__ = [name for name, value in vars().items() if isinstance(value, type)]

replace_given_classes()
