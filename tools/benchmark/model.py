# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN R50 at 800 x 1344, part by part, with and without CARAFE."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model

MODEL = "Mask R-CNN R50"
IMAGE = (1, 3, 800, 1344)
BOX_ROIS, MASK_ROIS = 1000, 100  # mmdet's test_cfg: proposals, and detections that get a mask
CONFIGS = {
    "nearest + deconv": "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "CARAFE": str(Path(__file__).parents[2] / "configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py"),
}


def _rois(count: int) -> Tensor:
    """Return boxes of every size an FPN distributes: [count, 5], image index, x1, y1, x2, y2."""
    generator = torch.Generator().manual_seed(0)
    height, width = IMAGE[2:]
    side = 2 ** (4 + 5 * torch.rand(count, 2, generator=generator))  # 16 .. 512 pixels
    start = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - side).clamp(min=0)
    return torch.cat([torch.zeros(count, 1), start, start + side], 1)


def model_functions() -> dict[str, Callable]:
    """Return the forward passes of each part of both detectors, by "detector: part".

    Selecting and suppressing boxes and pasting masks are left out: they are the same for both.
    """
    image, box_rois, mask_rois = torch.rand(IMAGE), _rois(BOX_ROIS), _rois(MASK_ROIS)
    functions = {}
    for name, config in CONFIGS.items():
        model = build_model(read_config(config)).requires_grad_(False)
        levels = model.backbone(image)
        maps = model.neck(levels)
        functions |= {
            f"{name}: backbone": lambda _, m=model: m.backbone(image),
            f"{name}: FPN": lambda _, m=model, x=levels: m.neck(x),
            f"{name}: RPN head": lambda _, m=model, x=maps: m.rpn_head(x),
            f"{name}: box head": lambda _, m=model, x=maps: m.roi_head._bbox_forward(x, box_rois),
            f"{name}: mask head": lambda _, m=model, x=maps: m.roi_head._mask_forward(x, mask_rois),
        }
    return functions
