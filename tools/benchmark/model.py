# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN R50 at 800 x 1344, part by part, with and without CARAFE, for benchmark_op.py."""

from pathlib import Path

import torch
from benchmark.measure import Row, in_turn, summary
from mmengine.config import Config
from mmengine.hub import get_config
from torch import Tensor

import mmcarafe.models  # noqa: F401  registers the necks and heads
from mmcarafe.apis.config import build_detector

IMAGE = (1, 3, 800, 1344)
BOX_ROIS, MASK_ROIS = 1000, 100  # mmdet's test_cfg: proposals, and detections that get a mask
CONFIG = Path(__file__).parents[2] / "configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py"
BASELINE = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"


def _rois(count: int) -> Tensor:
    """Boxes of every size an FPN distributes: [count, 5], image index, x1, y1, x2, y2."""
    generator = torch.Generator().manual_seed(0)
    height, width = IMAGE[2:]
    side = 2 ** (4 + 5 * torch.rand(count, 2, generator=generator))  # 16 .. 512 pixels
    start = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - side).clamp(min=0)
    return torch.cat([torch.zeros(count, 1), start, start + side], 1)


@torch.no_grad()
def model_rows(rounds: int) -> dict[str, dict]:
    """Milliseconds of each part's forward pass, for both detectors in turn.

    Selecting and suppressing boxes and pasting masks are left out: they are the same for both.
    """
    configs = {"nearest + deconv": get_config(BASELINE), "CARAFE": Config.fromfile(CONFIG)}
    image, box_rois, mask_rois = torch.rand(IMAGE), _rois(BOX_ROIS), _rois(MASK_ROIS)
    rows = {}
    for name, config in configs.items():
        model = build_detector(config)
        levels = model.backbone(image)
        maps = model.neck(levels)
        rows |= {
            f"{name}: backbone": Row(lambda m=model: m.backbone(image)),
            f"{name}: FPN": Row(lambda m=model, x=levels: m.neck(x)),
            f"{name}: RPN head": Row(lambda m=model, x=maps: m.rpn_head(x)),
            f"{name}: box head": Row(lambda m=model, x=maps: m.roi_head._bbox_forward(x, box_rois)),
            f"{name}: mask head": Row(lambda m=model, x=maps: m.roi_head._mask_forward(x, mask_rois)),
        }
    return {name: summary(times) for name, times in in_turn(rows, rounds).items()}
