# SPDX-License-Identifier: Apache-2.0
"""Detectors whose post-processing has fixed sizes, as an exported program wants it.

mmdet selects boxes image by image with tensors as long as there are boxes. Here a batch is worked on as a
whole, every tensor has a size that is known beforehand, and what is not selected has a score of 0. The
detections are mmdet's: the same candidates, the same suppression, the same number of them.
"""

from mmdet.models import (
    BBoxHead,
    RPNHead,
    SingleRoIExtractor,
    StandardRoIHead,
    TwoStageDetector,
    YOLOXHead,
)
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from torch import Tensor, nn

from mmcarafe.deploy.boxes import (
    best_boxes,
    dense_candidates,
    roi_candidates,
    rois_of,
    rpn_candidates,
    yolox_candidates,
)
from mmcarafe.deploy.network import Preprocessed
from mmcarafe.errors import UnsupportedError


class OneStage(Preprocessed):
    """A one-stage detector with its selection of boxes.

    Args:
        detector (nn.Module): of mmdet, its ``bbox_head`` one that selects boxes as mmdet's base class does
            (RetinaNet, FCOS, ATSS, RTMDet, ...), or YOLOX's.

    Raises:
        UnsupportedError: another head, or a suppression other than ``nms``.

    Example:
        >>> import torch
        >>> from mmdet.registry import MODELS
        >>> from mmdet.utils import register_all_modules
        >>> from mmengine.hub import get_config
        >>> from mmcarafe.deploy.detectors import OneStage
        >>> cfg = get_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py").model
        >>> cfg.backbone.init_cfg = None
        >>> register_all_modules()
        >>> boxes, scores, labels = OneStage(MODELS.build(cfg))(torch.rand(1, 3, 256, 256) * 255)
        >>> boxes.shape
        torch.Size([1, 100, 4])
    """

    outputs = ("boxes", "scores", "labels")

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        head = self.head = getattr(detector, "bbox_head", None)
        if isinstance(head, YOLOXHead):
            _check(head)
            return
        methods = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
        _check_selection(head, BaseDenseHead, *methods)
        _check(head, "nms_pre", "max_per_img")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in images, Tensor[N, C, H, W], BGR or grey from 0 to 255.

        Returns:
            tuple: boxes, Tensor[N, D, 4] as (x1, y1, x2, y2) in pixels of the input; scores, Tensor[N, D],
            in falling order, 0 where there are fewer than D objects; labels, int64 Tensor[N, D], there -1.
        """
        outputs = self.head(self.levels(image))
        candidates = yolox_candidates if isinstance(self.head, YOLOXHead) else dense_candidates
        boxes, scores, labels = candidates(self.head, outputs, image.shape[2:])
        return best_boxes(boxes, scores, labels, self.head.test_cfg)


class TwoStage(Preprocessed):
    """Faster or Mask R-CNN with proposals, boxes and masks.

    Args:
        detector (nn.Module): of mmdet, with an ``RPNHead`` and a ``StandardRoIHead``.

    Raises:
        UnsupportedError: another kind of head, or a suppression other than ``nms``.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.rpn_head, self.roi_head = getattr(detector, "rpn_head", None), detector.roi_head
        if type(self.roi_head) is not StandardRoIHead or type(self.rpn_head) is not RPNHead:
            raise UnsupportedError(
                f"of detectors with two stages those with RPNHead and StandardRoIHead are exported, "
                f"not {type(self.rpn_head).__name__} and {type(self.roi_head).__name__}"
            )
        _check_selection(self.roi_head.bbox_head, BBoxHead, "predict_by_feat", "_predict_by_feat_single")
        for name, extractor in self.roi_head.named_children():
            if isinstance(extractor, BaseRoIExtractor):
                _check_extractor(name, extractor)
        _check(self.rpn_head, "nms_pre", "max_per_img")
        _check(self.roi_head, "max_per_img")
        self.outputs = ("boxes", "scores", "labels") + ("masks",) * self.roi_head.with_mask

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect as :meth:`OneStage.forward` does, with masks where the detector has them.

        Returns:
            tuple: boxes, scores, labels, and masks, Tensor[N, D, h, w]: probabilities on a grid of
            h x w cells over each box.
        """
        levels = self.levels(image)
        boxes, scores, levels_of = rpn_candidates(self.rpn_head, self.rpn_head(levels), image.shape[2:])
        proposals, objectness, _ = best_boxes(boxes, scores, levels_of, self.rpn_head.test_cfg)
        boxes, scores, labels = roi_candidates(self.roi_head, levels, proposals, objectness, image.shape[2:])
        boxes, scores, labels = best_boxes(boxes, scores, labels, self.roi_head.test_cfg)
        if not self.roi_head.with_mask:
            return boxes, scores, labels
        masks = self.roi_head._mask_forward(levels, rois_of(boxes))["mask_preds"]  # [N*D, classes or 1, h, w]
        if masks.shape[1] > 1:
            index = labels.clamp(min=0).flatten().view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[2:])
            masks = masks.gather(1, index)
        return boxes, scores, labels, masks.sigmoid().view(*labels.shape, *masks.shape[2:])


def whole(detector: nn.Module) -> OneStage | TwoStage:
    """Return the detector with its post-processing; raise UnsupportedError where that cannot be exported."""
    return (TwoStage if isinstance(detector, TwoStageDetector) else OneStage)(detector)


def _check_selection(head: nn.Module, base: type, *methods: str) -> None:
    """Raise UnsupportedError unless the methods that select boxes are those of this class."""
    if any(getattr(type(head), name, None) is not getattr(base, name) for name in methods):
        raise UnsupportedError(
            f"boxes of {type(head).__name__} are selected in a way of its own, which is not exported"
        )


def _check_extractor(name: str, extractor: nn.Module) -> None:
    """Raise UnsupportedError unless RoIs are taken out by RoIAlign, as mmdet's SingleRoIExtractor does."""
    layer = extractor.roi_layers[0]
    if not isinstance(extractor, SingleRoIExtractor) or getattr(layer, "pool_mode", "") != "avg":
        raise UnsupportedError(
            f"RoIs are exported from SingleRoIExtractor with RoIAlign and average pooling, but {name} is "
            f"{type(extractor).__name__} with {type(layer).__name__}"
        )


def _check(head: nn.Module, *needed: str) -> None:
    """Raise UnsupportedError unless the head's settings are among those that are exported."""
    cfg, nms = head.test_cfg, dict(head.test_cfg.nms)
    unknown = set(nms) - {"type", "iou_threshold", "class_agnostic", "split_thr"}
    if nms.get("type", "nms") != "nms" or unknown:
        raise UnsupportedError(f"test_cfg.nms: expected type='nms' and an iou_threshold, got {nms}")
    for name in needed:
        if cfg.get(name, -1) <= 0:
            raise UnsupportedError(f"test_cfg.{name}: expected 1 or more, got {cfg.get(name)}")
    loss = getattr(getattr(head, "bbox_head", head), "loss_cls", None)  # SSD has none
    if getattr(loss, "custom_cls_channels", False):
        raise UnsupportedError(f"scores of {type(loss).__name__} are not exported")
