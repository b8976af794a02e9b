# SPDX-License-Identifier: Apache-2.0
"""Detectors that predict boxes at every place, with post-processing of fixed sizes."""

import torch
from mmdet.models import RTMDetInsHead, TOODHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor, nn

from mmcarafe.deploy.boxes import (
    best_boxes,
    dense_candidates,
    flat,
    priors_of,
    rows,
    tood_candidates,
    yolox_candidates,
)
from mmcarafe.deploy.checks import check_selection, check_settings
from mmcarafe.deploy.network import Preprocessed
from mmcarafe.errors import UnsupportedError


class OneStage(Preprocessed):
    """A one-stage detector with its selection of boxes.

    Args:
        detector (nn.Module): of mmdet, its ``bbox_head`` one that selects boxes as mmdet's base class does
            (RetinaNet, FCOS, ATSS, RTMDet, ...).

    Raises:
        UnsupportedError: another head, or a suppression other than ``nms``.

    Example:
        >>> import torch
        >>> from mmdet.registry import MODELS
        >>> from mmdet.utils import register_all_modules
        >>> from mmengine.hub import get_config
        >>> from mmcarafe.deploy.one_stage import OneStage
        >>> cfg = get_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py").model
        >>> cfg.backbone.init_cfg = None
        >>> register_all_modules()
        >>> boxes, scores, labels = OneStage(MODELS.build(cfg))(torch.rand(1, 3, 256, 256) * 255)
        >>> boxes.shape
        torch.Size([1, 100, 4])
    """

    outputs = ("boxes", "scores", "labels")

    kind: type = BaseDenseHead
    methods = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
    """Name the methods that select boxes, which must be those of ``kind``."""
    needed = ("nms_pre", "max_per_img")
    candidates = staticmethod(dense_candidates)

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.head = getattr(detector, "bbox_head", None)
        check_selection(self.head, self.kind, *self.methods)
        check_settings(self.head, *self.needed)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect in images, Tensor[N, C, H, W], BGR or grey from 0 to 255.

        Returns:
            tuple: boxes, Tensor[N, D, 4] as (x1, y1, x2, y2) in pixels of the input; scores, Tensor[N, D],
            in falling order, 0 where there are fewer than D objects; labels, int64 Tensor[N, D], there -1.
        """
        outputs = self.head(self.levels(image))
        found = self.candidates(self.head, outputs, image.shape[2:])
        return best_boxes(*found, cfg=self.head.test_cfg)[:3]


class YOLOX(OneStage):
    """YOLOX, which has no limit of candidates."""

    kind, needed = YOLOXHead, ()
    candidates = staticmethod(yolox_candidates)


class TOOD(OneStage):
    """TOOD, whose head predicts boxes."""

    kind = TOODHead
    candidates = staticmethod(tood_candidates)


class RTMDetIns(OneStage):
    """RTMDet-Ins: a mask is convolved of shared features, by kernels that each object brings along."""

    outputs = (*OneStage.outputs, "mask_maps")
    kind = RTMDetInsHead
    methods = (
        "predict",
        "predict_by_feat",
        "_predict_by_feat_single",
        "_bbox_mask_post_process",
        "_mask_predict_by_feat_single",
    )

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        threshold = self.head.test_cfg.mask_thr_binary
        if not 0 < threshold < 1:
            raise UnsupportedError(
                f"test_cfg.mask_thr_binary: expected a probability between 0 and 1, got {threshold}"
            )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect as other detectors with one stage do, with a map of the input for each object.

        Returns:
            tuple: boxes, scores, labels, and mask_maps, Tensor[N, D, H / s, W / s], s the stride of the
            finest level: logits minus that of the mask's threshold, so that a map, resized bilinearly to the
            input, is positive inside its object.
        """
        *outputs, kernels, features = self.head(self.levels(image))
        found = dense_candidates(self.head, outputs, image.shape[2:])
        boxes, scores, labels, places = best_boxes(*found, cfg=self.head.test_cfg)
        kernels = torch.cat([flat(x, self.head.num_gen_params) for x in kernels], 1)
        points = torch.cat(priors_of(self.head, outputs[0], with_stride=True))
        maps = dynamic_masks(self.head, features, rows(kernels, places), points[places])
        threshold = torch.tensor(self.head.test_cfg.mask_thr_binary).logit()
        return boxes, scores, labels, (maps - threshold).where(scores[..., None, None] > 0, 0.0)


def dynamic_masks(head: RTMDetInsHead, features: Tensor, kernels: Tensor, points: Tensor) -> Tensor:
    """Return the logits of masks that kernels of their own make of features.

    Args:
        head (RTMDetInsHead): which says how kernels are parsed.
        features (Tensor[N, C, h, w]): shared by all objects of an image.
        kernels (Tensor[N, D, P]): of each object.
        points (Tensor[N, D, 4]): where an object was found, as x, y, stride, stride.

    Returns:
        Tensor[N, D, h, w]: logits.
    """
    height, width = features.shape[2:]
    count = kernels.shape[1]
    cells = head.prior_generator.single_level_grid_priors((height, width), 0, device=features.device)
    apart = (points[..., :2, None] - cells.T) / (8 * points[..., 2:3, None])  # [N, D, 2, h * w]
    x = torch.cat([apart, features.flatten(2).unsqueeze(1).expand(-1, count, -1, -1)], 2)
    layers = list(zip(*head.parse_dynamic_params(kernels.flatten(0, 1)), strict=True))
    for number, (weight, bias) in enumerate(layers, 1):
        weight = weight.view(*apart.shape[:2], -1, weight.shape[1])
        x = weight @ x + bias.view(*weight.shape[:3], 1)
        x = x.relu() if number < len(layers) else x
    return x.squeeze(2).unflatten(-1, (height, width))


KINDS = YOLOX, TOOD, RTMDetIns, OneStage
"""Modules, the special ones first."""
