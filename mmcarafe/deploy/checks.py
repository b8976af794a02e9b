# SPDX-License-Identifier: Apache-2.0
"""What a head must be like for its selection of boxes to be exported."""

from mmdet.models import (
    DeformableDETR,
    DetectionTransformer,
    Mask2Former,
    MaskFormer,
    SingleRoIExtractor,
    SingleStageDetector,
    SparseRCNN,
    TwoStageDetector,
    TwoStagePanopticSegmentor,
)
from mmdet.models.detectors.single_stage_instance_seg import SingleStageInstanceSegmentor
from torch import nn

from mmcarafe.errors import UnsupportedError

_LEVELS = (
    "its attention (mmcv's MultiScaleDeformableAttention) splits levels by sizes that are values of a tensor"
)
NOT_EXPORTED = {
    Mask2Former: _LEVELS,
    DeformableDETR: _LEVELS,
    MaskFormer: "its padding is masked image by image, in a loop that would fix the size of the batch",
    SparseRCNN: "its boxes are refined image by image, in a loop that would fix the size of the batch",
    TwoStagePanopticSegmentor: "its panoptic map would be left out",
}
"""Say why detectors of some families are not exported, the special ones first."""

FAMILIES = (SingleStageDetector, SingleStageInstanceSegmentor, TwoStageDetector, DetectionTransformer)
"""Name the classes whose steps from images to objects are known."""


def check_family(detector: nn.Module) -> None:
    """Raise UnsupportedError where a detector's way of predicting is known not to become a program."""
    for family, reason in NOT_EXPORTED.items():
        if isinstance(detector, family):
            raise UnsupportedError(f"{type(detector).__name__} is not exported: {reason}")
    for name in ("extract_feat", "predict"):
        own = getattr(type(detector), name, None)
        if own and own not in [getattr(family, name) for family in FAMILIES]:
            raise UnsupportedError(
                f"{type(detector).__name__} is not exported: its {name} is none of mmdet's"
            )


def check_selection(head: nn.Module, base: type, *methods: str) -> None:
    """Raise UnsupportedError unless the methods that select boxes are those of this class."""
    if any(getattr(type(head), name, None) is not getattr(base, name) for name in methods):
        raise UnsupportedError(
            f"boxes of {type(head).__name__} are selected in a way of its own, which is not exported"
        )


def check_extractor(name: str, extractor: nn.Module) -> None:
    """Raise UnsupportedError unless RoIs are taken out by RoIAlign, as mmdet's SingleRoIExtractor does."""
    layer = extractor.roi_layers[0]
    if not isinstance(extractor, SingleRoIExtractor) or getattr(layer, "pool_mode", "") != "avg":
        raise UnsupportedError(
            f"RoIs are exported from SingleRoIExtractor with RoIAlign and average pooling, but {name} is "
            f"{type(extractor).__name__} with {type(layer).__name__}"
        )


def check_settings(head: nn.Module, *needed: str) -> None:
    """Raise UnsupportedError unless the head's settings are among those that are exported."""
    nms = dict(head.test_cfg.get("nms") or dict(type=None))
    unknown = set(nms) - {"type", "iou_threshold", "class_agnostic", "split_thr"}
    if nms.get("type", "nms") != "nms" or unknown:
        raise UnsupportedError(f"test_cfg.nms: expected type='nms' and an iou_threshold, got {nms}")
    if nms.get("class_agnostic") and "split_thr" in nms:
        raise UnsupportedError("test_cfg.nms: with split_thr mmcv suppresses class by class; leave it out")
    check_limits(head, *needed)
    check_scores(head)


def check_limits(head: nn.Module, *needed: str) -> None:
    """Raise UnsupportedError unless these numbers of the head's settings are limits."""
    for name in needed:
        if head.test_cfg.get(name, -1) <= 0:
            raise UnsupportedError(f"test_cfg.{name}: expected 1 or more, got {head.test_cfg.get(name)}")


def check_scores(head: nn.Module) -> None:
    """Raise UnsupportedError where a loss makes scores of logits in a way of its own."""
    loss = getattr(head, "loss_cls", None)  # SSD has none
    if getattr(loss, "custom_cls_channels", False):
        raise UnsupportedError(f"scores of {type(loss).__name__} are not exported")
