# SPDX-License-Identifier: Apache-2.0
"""mmdet's own configs build and compute the same with this package imported as without it."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from mmengine.structures import BaseDataElement
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
    if "rcnn" in cfg.model.get("test_cfg", {}):  # something to compare, but not many masks
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=3)
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
    batch = demo_mm_inputs(1, [[3, 64, 64]], with_mask=True, with_semantic=True)
    results = []
    for model in (ours, theirs):
        with torch.no_grad():
            results.append(model(**model.data_preprocessor(batch), mode="predict")[0])
    assert_same(*results)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        outputs = [model.extract_feat(image) for model in (ours, theirs)]
    for actual, level in zip(*outputs, strict=True):
        assert actual.equal(level)


def assert_same(actual, expected):
    """Every tensor of two predictions, bit for bit."""
    if isinstance(expected, torch.Tensor):
        assert actual.equal(expected)
    elif isinstance(expected, BaseDataElement):
        assert actual.keys() == expected.keys()
        for key in expected.keys():  # noqa: SIM118  not a dict
            assert_same(actual.get(key), expected.get(key))
