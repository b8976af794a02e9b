# SPDX-License-Identifier: Apache-2.0
"""Detectors whose post-processing has fixed sizes, as an exported program wants it.

mmdet selects boxes image by image with tensors as long as there are boxes. Here a batch is worked on as a
whole, every tensor has a size that is known beforehand, and what is not selected has a score of 0. The
detections are mmdet's: the same candidates, the same suppression, the same number of them.
"""

from mmdet.models import DETR, SOLOV2Head, TwoStageDetector
from torch import nn

from mmcarafe.deploy import one_stage, two_stage
from mmcarafe.deploy.checks import check_family
from mmcarafe.deploy.detr import Transformer
from mmcarafe.deploy.network import Preprocessed
from mmcarafe.deploy.solo import SOLOv2
from mmcarafe.errors import UnsupportedError


def whole(detector: nn.Module) -> Preprocessed:
    """Return the detector with its post-processing; raise UnsupportedError where that cannot be exported."""
    check_family(detector)
    if isinstance(detector, TwoStageDetector):
        return two_stage.KINDS.get(type(detector.roi_head), two_stage.TwoStage)(detector)
    if isinstance(detector, DETR):
        return Transformer(detector)
    if isinstance(getattr(detector, "mask_head", None), SOLOV2Head):
        return SOLOv2(detector)
    head = getattr(detector, "bbox_head", None)
    if head is None:
        raise UnsupportedError(
            f"of detectors without a bbox_head SOLOv2 alone is exported, not {type(detector).__name__}"
        )
    kind = next((m for m in one_stage.KINDS if isinstance(head, m.kind)), one_stage.OneStage)
    module = kind(detector)  # which refuses a head that selects boxes in a way of its own
    if getattr(detector, "mask_head", None) is not None:
        raise UnsupportedError(f"{type(detector.mask_head).__name__} beside a bbox_head is not exported")
    return module
