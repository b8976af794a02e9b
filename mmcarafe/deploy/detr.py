# SPDX-License-Identifier: Apache-2.0
"""DETR and those of its family that attend to one level, with post-processing of fixed sizes."""

from types import SimpleNamespace

import torch
from mmdet.models import DETRHead
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmcarafe.deploy.boxes import rows
from mmcarafe.deploy.checks import check_selection
from mmcarafe.deploy.network import Preprocessed


class Transformer(Preprocessed):
    """A detector that finds each object by a query, without suppression.

    mmdet masks the padding of images in a batch; here the whole input is image.

    Args:
        detector (nn.Module): mmdet's DETR, ConditionalDETR or DABDETR.

    Raises:
        UnsupportedError: its head selects objects in a way of its own.
    """

    outputs = ("boxes", "scores", "labels")

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.detector, self.head = detector, detector.bbox_head
        check_selection(self.head, DETRHead, "predict_by_feat", "_predict_by_feat_single")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect in images, Tensor[N, C, H, W], BGR or grey from 0 to 255.

        Returns:
            tuple: boxes, Tensor[N, D, 4] as (x1, y1, x2, y2) in pixels of the input; scores, Tensor[N, D],
            in falling order; labels, int64 Tensor[N, D].
        """
        height, width = image.shape[2:]
        whole = SimpleNamespace(batch_input_shape=(height, width), img_shape=(height, width))
        found = self.detector.forward_transformer(self.levels(image), [whole])
        logits, boxes = (layers[-1] for layers in self.head(**found))  # of the last layer
        scores, labels, queries = self._best(logits)
        x1, y1, x2, y2 = bbox_cxcywh_to_xyxy(rows(boxes, queries)).clamp(0, 1).unbind(-1)
        return torch.stack([x1 * width, y1 * height, x2 * width, y2 * height], -1), scores, labels

    def _best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, labels and queries, Tensor[N, D], of logits, Tensor[N, queries, classes (+ 1)]."""
        most = self.head.test_cfg.get("max_per_img", logits.shape[1])
        if self.head.loss_cls.use_sigmoid:
            scores, pairs = logits.sigmoid().flatten(1).topk(most)
            return scores, pairs % logits.shape[2], pairs // logits.shape[2]
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        scores, queries = scores.topk(most)
        return scores, labels.gather(1, queries), queries
