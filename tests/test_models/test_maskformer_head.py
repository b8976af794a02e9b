# SPDX-License-Identifier: Apache-2.0
"""MaskFormer's head, which looks at the exact class of its pixel decoder."""

import pytest
import torch
from mmcv.cnn import Conv2d
from mmdet.models import layers
from mmdet.registry import MODELS
from mmengine.hub import get_config

from mmcarafe import models


def head(channels=(8, 16), enforce=False, **decoder):
    cfg = get_config("mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py").model.panoptic_head
    cfg.in_channels = list(channels)
    cfg.enforce_decoder_input_project = enforce
    cfg.pixel_decoder = dict(type="PixelDecoder", norm_cfg=dict(type="GN", num_groups=32), **decoder)
    torch.manual_seed(0)
    return MODELS.build(cfg)


@pytest.mark.parametrize(
    "options",
    [{}, dict(channels=(8, 256)), dict(channels=(8, 256), enforce=True), dict(upsample_cfg=None)],
    ids=str,
)
def test_without_an_upsampler_it_is_mmdets_bit_for_bit(options, stock):
    ours = head(**options)
    options = {name: value for name, value in options.items() if name != "upsample_cfg"}
    with stock():
        theirs = head(**options)
    assert type(ours) is models.MaskFormerHead
    assert type(ours.pixel_decoder) is type(theirs.pixel_decoder) is layers.PixelDecoder
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    assert all(value.equal(expected[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("options", "projects"),
    [({}, True), (dict(enforce=True), True), (dict(channels=(8, 256)), False)],
    ids=str,
)
def test_with_an_upsampler_the_input_is_projected_as_in_mmdet(options, projects):
    ours = head(**options, upsample_cfg=dict(type="CARAFE"))
    assert type(ours.pixel_decoder) is models.PixelDecoder
    assert len(ours.pixel_decoder.upsample_modules) == 1
    assert isinstance(ours.decoder_input_proj, Conv2d) == projects
