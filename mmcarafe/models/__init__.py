# SPDX-License-Identifier: Apache-2.0
"""Importing this registers everything with mmdet: ``custom_imports=dict(imports=["mmcarafe.models"])``."""

from mmdet import registry

from mmcarafe import checkpoint  # these register themselves
from mmcarafe.datasets import coco, transforms
from mmcarafe.engine import detection
from mmcarafe.layers import CARAFE
from mmcarafe.utils.registry import replace_given_classes

from .backbones import HourglassNet, HRNet, ResNet
from .dense_heads import (
    BoxInstMaskHead,
    CondInstMaskHead,
    RTMDetInsHead,
    RTMDetInsSepBNHead,
    SOLOV2Head,
    YOLACTProtonet,
)
from .fpg import FPG
from .fusion_necks import (
    BFP,
    HRFPN,
    NASFCOS_FPN,
    NASFPN,
    YOLOXPAFPN,
    CSPNeXtPAFPN,
    CTResNetNeck,
    DyHead,
    YOLOV3Neck,
)
from .mask_heads import DynamicMaskHead, FCNMaskHead, HTCMaskHead, SCNetMaskHead
from .necks import FPN, FPN_CARAFE, PAFPN, RFP, FPN_DropBlock
from .pixel_decoders import (
    MaskFormerHead,
    MSDeformAttnPixelDecoder,
    PixelDecoder,
    TransformerEncoderPixelDecoder,
)
from .seg_heads import FusedSemanticHead, PanopticFPNHead, SCNetSemanticHead

__all__ = [name for name, value in vars().items() if isinstance(value, type)]

replace_given_classes(registry)
