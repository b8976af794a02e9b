# SPDX-License-Identifier: Apache-2.0
"""Detectors whose post-processing has fixed sizes, as an exported program wants it.

mmdet selects boxes image by image with tensors as long as there are boxes. Here a batch is worked on as a
whole, every tensor has a size that is known beforehand, and what is not selected has a score of 0. The
detections are mmdet's: the same candidates, the same suppression, the same number of them.
"""

import torch
from mmdet.models import (
    BBoxHead,
    CascadeRoIHead,
    RPNHead,
    StandardRoIHead,
    TwoStageDetector,
    YOLOXHead,
)
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor, nn

from mmcarafe.deploy.boxes import (
    best_boxes,
    dense_candidates,
    roi_candidates,
    rois_of,
    rpn_candidates,
    yolox_candidates,
)
from mmcarafe.deploy.checks import check_extractor, check_selection, check_settings
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
            check_settings(head)
            return
        methods = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
        check_selection(head, BaseDenseHead, *methods)
        check_settings(head, "nms_pre", "max_per_img")

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
        detector (nn.Module): of mmdet, with an ``RPNHead`` and the kind of RoI head that the class names.

    Raises:
        UnsupportedError: another kind of head, or a suppression other than ``nms``.
    """

    kind: type = StandardRoIHead

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.rpn_head, self.roi_head = getattr(detector, "rpn_head", None), detector.roi_head
        if type(self.roi_head) is not self.kind or type(self.rpn_head) is not RPNHead:
            raise UnsupportedError(
                f"of detectors with two stages those with RPNHead and StandardRoIHead or CascadeRoIHead are "
                f"exported, not {type(self.rpn_head).__name__} and {type(self.roi_head).__name__}"
            )
        for head in self._stages("bbox_head"):
            check_selection(head, BBoxHead, "predict_by_feat", "_predict_by_feat_single")
        for name in ("bbox_roi_extractor", "mask_roi_extractor")[: 1 + self.roi_head.with_mask]:
            for extractor in self._stages(name):
                check_extractor(name, extractor)
        check_settings(self.rpn_head, "nms_pre", "max_per_img")
        check_settings(self.roi_head, "max_per_img")
        self.outputs = ("boxes", "scores", "labels") + ("masks",) * self.roi_head.with_mask

    def _stages(self, name: str) -> list[nn.Module]:
        found = getattr(self.roi_head, name)
        return list(found) if isinstance(found, nn.ModuleList) else [found]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect as :meth:`OneStage.forward` does, with masks where the detector has them.

        Returns:
            tuple: boxes, scores, labels, and masks, Tensor[N, D, h, w]: probabilities on a grid of
            h x w cells over each box.
        """
        levels, size = self.levels(image), image.shape[2:]
        boxes, scores, levels_of = rpn_candidates(self.rpn_head, self.rpn_head(levels), size)
        proposals, objectness, _ = best_boxes(boxes, scores, levels_of, self.rpn_head.test_cfg)
        head, found, rois = self._refined(levels, rois_of(proposals), size)
        cfg = self.roi_head.test_cfg
        boxes, scores, labels = best_boxes(
            *roi_candidates(head, cfg.score_thr, found, rois, objectness, size), cfg
        )
        if not self.roi_head.with_mask:
            return boxes, scores, labels
        masks = self._masks(levels, rois_of(boxes))  # [N*D, classes or 1, h, w]
        if masks.shape[1] > 1:
            index = labels.clamp(min=0).flatten().view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[2:])
            masks = masks.gather(1, index)
        return boxes, scores, labels, masks.view(*labels.shape, *masks.shape[2:])

    def _refined(self, levels: tuple, rois: Tensor, size: tuple[int, int]) -> tuple:
        """Return the box head, its logits and deltas, and the RoIs that they are of."""
        found = self.roi_head._bbox_forward(levels, rois)
        return self.roi_head.bbox_head, (found["cls_score"], found["bbox_pred"]), rois

    def _masks(self, levels: tuple, rois: Tensor) -> Tensor:
        """Return the probabilities of masks, Tensor[N * D, classes or 1, h, w]."""
        return self.roi_head._mask_forward(levels, rois)["mask_preds"].sigmoid()


class Cascade(TwoStage):
    """Cascade R-CNN, with masks or without: each stage starts from the boxes of the one before it.

    Scores are those of the mean of all stages' logits, masks the mean of all stages' probabilities.
    """

    kind = CascadeRoIHead

    def _refined(self, levels: tuple, rois: Tensor, size: tuple[int, int]) -> tuple:
        logits, heads = [], self.roi_head.bbox_head
        for stage, head in enumerate(heads):
            found = self.roi_head._bbox_forward(stage, levels, rois)
            logits.append(found["cls_score"])
            if stage + 1 < len(heads):
                labels, meta = found["cls_score"][:, :-1].argmax(1), dict(img_shape=size)
                refined = head.regress_by_class(rois[:, 1:], labels, found["bbox_pred"], meta)
                rois = torch.cat([rois[:, :1], refined], 1)
        return head, (sum(logits) / len(logits), found["bbox_pred"]), rois

    def _masks(self, levels: tuple, rois: Tensor) -> Tensor:
        stages = range(self.roi_head.num_stages)
        masks = [self.roi_head._mask_forward(stage, levels, rois)["mask_preds"].sigmoid() for stage in stages]
        return sum(masks) / len(masks)


def whole(detector: nn.Module) -> OneStage | TwoStage:
    """Return the detector with its post-processing; raise UnsupportedError where that cannot be exported."""
    if not isinstance(detector, TwoStageDetector):
        return OneStage(detector)
    return (Cascade if type(detector.roi_head) is CascadeRoIHead else TwoStage)(detector)
