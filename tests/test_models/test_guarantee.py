# SPDX-License-Identifier: Apache-2.0
"""mmdet's own configs build and compute the same with this package imported as without it."""

import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.hub import get_config

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from model_tables import CONFIGS, base_of

BASES = sorted({base_of(path) for path in CONFIGS.glob("*_coco.py")})
OTHERS = [
    "mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py",
    "mmdet::fpg/faster-rcnn_r50_fpg-chn128_crop640-50e_coco.py",
    "mmdet::libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py",
    "mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py",
    "mmdet::scnet/scnet_r50_fpn_1x_coco.py",
    "mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",
]


def build(name):
    cfg = get_config(name)
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize("name", BASES + OTHERS, ids=lambda name: Path(name).stem)
def test_a_stock_config_builds_and_computes_the_same(name, stock):
    register_all_modules()
    with stock():
        theirs = build(name)
    ours = build(name)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for key, value in ours.state_dict().items():
        assert value.equal(expected[key]), key
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        outputs = [model.extract_feat(image) for model in (ours, theirs)]
    for actual, level in zip(*outputs, strict=True):
        assert actual.equal(level)
