# SPDX-License-Identifier: Apache-2.0
"""MaskFormer's head, which looks at the exact class of its pixel decoder."""

import copy

import pytest
import torch
from mmcv.cnn import Conv2d
from mmdet.models import MaskFormerHead, layers
from mmdet.registry import MODELS
from mmengine.hub import get_config

from mmcarafe import models
from mmcarafe.errors import UpsampleConfigError


class TheirHead(MaskFormerHead):
    """A user's head, derived from mmdet's."""


def head(channels=(8, 16), enforce=False, kind="MaskFormerHead", **decoder):
    cfg = get_config("mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py").model.panoptic_head
    cfg.type = kind
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


@pytest.mark.parametrize("kind", [TheirHead, "their_head"])
def test_a_head_of_a_users_is_mmdets_without_an_upsampler_and_refused_where_it_would_not_project(kind):
    MODELS.register_module(name="their_head", module=TheirHead)
    ours = head(kind=kind)
    assert type(ours.pixel_decoder) is layers.PixelDecoder and isinstance(ours.decoder_input_proj, Conv2d)
    match = r"TheirHead does not project the 16 channels .* 256 .*: derive it from mmcarafe\.models\.Mask"
    with pytest.raises(UpsampleConfigError, match=match):
        head(kind=kind, upsample_cfg=dict(type="CARAFE"))
    needs_none = head(kind=kind, channels=(8, 256), upsample_cfg=dict(type="CARAFE"))
    assert type(needs_none.pixel_decoder) is models.PixelDecoder


def test_a_decoder_can_be_copied():
    for upsample_cfg in (None, dict(type=None, _delete_=True), dict(type="CARAFE")):
        decoder = head(upsample_cfg=upsample_cfg).pixel_decoder
        copied = copy.deepcopy(decoder)
        assert type(copied) is type(decoder)
        assert all(map(torch.equal, copied.parameters(), decoder.parameters()))


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
