# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of mmdet's CARAFE models load unchanged and give mmdet's results, detections included."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from samples import assert_close

from mmcarafe.layers import CARAFE

RELEASED = ["faster-rcnn_r50_fpn-carafe_1x_coco", "mask-rcnn_r50_fpn-carafe_1x_coco"]


def stock_config(name):
    register_all_modules()
    cfg = get_config(f"mmdet::carafe/{name}.py")
    cfg.model.backbone.init_cfg = None
    return cfg


@pytest.mark.parametrize("name", RELEASED)
def test_the_state_dict_is_mmdets_key_for_key(name, stock):
    cfg = stock_config(name)
    with torch.device("meta"):
        ours = MODELS.build(cfg.model).state_dict()
        with stock():
            theirs = MODELS.build(cfg.model).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in theirs.items()}
    encoders = [key for key in theirs if key.endswith("content_encoder.weight")]
    assert len(encoders) == (5 if name.startswith("mask") else 4)


def small(cfg):
    """The same network with few channels, so that the operator's loops take seconds."""
    cfg.model.backbone.update(depth=18, base_channels=4)
    cfg.model.neck.update(in_channels=[4, 8, 16, 32], out_channels=8)
    cfg.model.rpn_head.update(in_channels=8, feat_channels=8)
    heads = cfg.model.roi_head
    heads.bbox_roi_extractor.out_channels = heads.mask_roi_extractor.out_channels = 8
    heads.bbox_head.update(in_channels=8, fc_out_channels=16, num_classes=3)
    heads.mask_head.update(in_channels=8, conv_out_channels=8, num_classes=3)
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=4)
    return cfg


@pytest.mark.usefixtures("mmcv_on_cpu")
def test_levels_logits_and_detections_are_mmdets(stock):
    cfg = small(stock_config(RELEASED[1]))
    with stock():
        theirs = MODELS.build(cfg.model).eval()
    theirs.init_weights()
    for name, module in theirs.named_modules():
        if name.endswith("content_encoder"):
            torch.nn.init.normal_(module.weight, std=0.5)
    ours = MODELS.build(cfg.model).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert sum(isinstance(m, CARAFE) for m in ours.modules()) == 5
    assert not any(isinstance(m, CARAFE) for m in theirs.modules())

    batch = demo_mm_inputs(1, [[3, 64, 64]], num_classes=3, with_mask=True)
    data = ours.data_preprocessor(batch, training=False)
    with torch.no_grad():
        levels = [model.extract_feat(data["inputs"]) for model in (ours, theirs)]
        for actual, expected in zip(*levels, strict=True):
            assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        rois = torch.randn(2, 8, 14, 14)
        logits = [model.roi_head.mask_head(rois) for model in (ours, theirs)]
        assert_close(*logits, rtol=1e-4, atol=1e-4)
        (actual,), (expected,) = (
            model(**model.data_preprocessor(batch, training=False), mode="predict")
            for model in (ours, theirs)
        )
    actual, expected = actual.pred_instances, expected.pred_instances
    assert len(expected) == 4
    assert actual.labels.equal(expected.labels)
    assert_close(actual.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert_close(actual.bboxes, expected.bboxes, rtol=1e-4, atol=1e-2)
    assert (actual.masks != expected.masks).float().mean() < 1e-3  # a logit of zero may round either way
