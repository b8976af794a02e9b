# SPDX-License-Identifier: Apache-2.0
"""Detectors that look at proposals in a second stage, with post-processing of fixed sizes."""

import torch
from mmdet.models import (
    BBoxHead,
    CascadeRoIHead,
    HybridTaskCascadeRoIHead,
    RPNHead,
    StandardRoIHead,
)
from torch import Tensor, nn

from mmcarafe.deploy.boxes import best_boxes, roi_candidates, rois_of, rpn_candidates
from mmcarafe.deploy.checks import check_extractor, check_scores, check_selection, check_settings
from mmcarafe.deploy.network import Preprocessed
from mmcarafe.errors import UnsupportedError


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
                f"of detectors with two stages those with RPNHead and one of "
                f"{', '.join(kind.__name__ for kind in KINDS)} are exported, not "
                f"{type(self.rpn_head).__name__} and {type(self.roi_head).__name__}"
            )
        for head in self._stages("bbox_head"):
            check_selection(head, BBoxHead, "predict_by_feat", "_predict_by_feat_single")
            check_scores(head)
        for name in self._extractors():
            for extractor in self._stages(name):
                check_extractor(name, extractor)
        check_settings(self.rpn_head, "nms_pre", "max_per_img")
        check_settings(self.roi_head, "max_per_img")
        self.outputs = ("boxes", "scores", "labels") + ("masks",) * self.roi_head.with_mask

    def _extractors(self) -> list[str]:
        return ["bbox_roi_extractor", *["mask_roi_extractor"] * self.roi_head.with_mask]

    def _stages(self, name: str) -> list[nn.Module]:
        found = getattr(self.roi_head, name)
        return list(found) if isinstance(found, nn.ModuleList) else [found]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect as one with one stage does, with masks where the detector has them.

        Returns:
            tuple: boxes, scores, labels, and masks, Tensor[N, D, h, w]: probabilities on a grid of
            h x w cells over each box.
        """
        levels, size = self.levels(image), image.shape[2:]
        others = self._others(levels)
        boxes, scores, levels_of = rpn_candidates(self.rpn_head, self.rpn_head(levels), size)
        proposals, objectness, _ = best_boxes(boxes, scores, levels_of, cfg=self.rpn_head.test_cfg)
        head, found, rois = self._refined(levels, rois_of(proposals), size, *others)
        cfg = self.roi_head.test_cfg
        boxes, scores, labels = best_boxes(
            *roi_candidates(head, cfg.score_thr, found, rois, objectness, size), cfg=cfg
        )
        if not self.roi_head.with_mask:
            return boxes, scores, labels
        masks = self._masks(levels, rois_of(boxes), *others)  # [N*D, classes or 1, h, w]
        if masks.shape[1] > 1:
            index = labels.clamp(min=0).flatten().view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[2:])
            masks = masks.gather(1, index)
        return boxes, scores, labels, masks.view(*labels.shape, *masks.shape[2:])

    def _others(self, levels: tuple) -> tuple:
        """Return what the steps of the RoI head take besides the levels and the RoIs."""
        return ()

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

    def _refined(self, levels: tuple, rois: Tensor, size: tuple[int, int], *others) -> tuple:
        logits, heads = [], self.roi_head.bbox_head
        for stage, head in enumerate(heads):
            found = self.roi_head._bbox_forward(stage, levels, rois, *others)
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


class HybridTaskCascade(Cascade):
    """HTC: a cascade whose RoIs take in the features of a semantic branch, where it has one.

    Masks are those of mmdet's prediction: each stage's mask head takes the features of the one before it.
    """

    kind = HybridTaskCascadeRoIHead

    def _extractors(self) -> list[str]:
        return super()._extractors() + ["semantic_roi_extractor"] * self.roi_head.with_semantic

    def _others(self, levels: tuple) -> tuple:
        return (self.roi_head.semantic_head(levels)[1] if self.roi_head.with_semantic else None,)

    def _masks(self, levels: tuple, rois: Tensor, semantic: Tensor | None) -> Tensor:
        found = self.roi_head._mask_forward(-1, levels, rois, semantic, training=False)["mask_preds"]
        return sum(logits.sigmoid() for logits in found) / len(found)


KINDS = {module.kind: module for module in (TwoStage, Cascade, HybridTaskCascade)}
"""Modules by the RoI head of the detector that they are of."""
