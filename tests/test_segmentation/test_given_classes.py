# SPDX-License-Identifier: Apache-2.0
"""Configs that give mmsegmentation's classes in place of names, and users' subclasses of them."""

import pytest

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

from mmengine.registry import DefaultScope
from mmseg.models import backbones, decode_heads, necks
from mmseg.models.backbones.unet import InterpConv
from mmseg.registry import MODELS

from mmcarafe import segmentation
from mmcarafe.layers import CARAFE, UpsampleConfigError

NECK = dict(in_channels=[4, 8], out_channels=4, num_outs=2, upsample_cfg=dict(type="CARAFE"))
HEAD = dict(in_channels=[4, 8], in_index=[0, 1], channels=4, num_classes=2, upsample_cfg=dict(type="CARAFE"))


class TheirNeck(necks.FPN):
    """A user's neck."""


class TheirHead(decode_heads.FCNHead):
    """A user's head that does not upsample."""


class OurNeck(segmentation.FPN):
    """A user's neck, derived as the message says."""


@pytest.fixture(autouse=True)
def registered():
    for kind in (TheirNeck, TheirHead, OurNeck):
        MODELS.register_module(module=kind)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.mark.parametrize(
    ("kind", "config"), [(necks.FPN, NECK), (decode_heads.UPerHead, HEAD)], ids=["FPN", "UPerHead"]
)
def test_mmsegmentations_class_is_replaced_as_its_name_is(kind, config):
    component = MODELS.build(dict(type=kind, **config))
    assert type(component) is getattr(segmentation, kind.__name__)
    assert type(component.upsample_modules[0]) is CARAFE


def test_what_a_subclass_must_derive_from_is_said():
    for kind in ("TheirNeck", TheirNeck):
        with pytest.raises(
            UpsampleConfigError, match=r"from mmseg's FPN.* from mmcarafe\.segmentation\.FPN,"
        ):
            MODELS.build(dict(type=kind, **NECK))
    assert type(MODELS.build(dict(type="OurNeck", **NECK)).upsample_modules[0]) is CARAFE
    with pytest.raises(
        UpsampleConfigError, match=r"FCNHead takes no upsample_cfg .*these do: FPN, FPNHead, PSP"
    ):
        MODELS.build(dict(type="FCNHead", **HEAD))
    with pytest.raises(
        UpsampleConfigError, match=r"TheirHead takes no .*derive it from a class of mmcarafe\.seg"
    ):
        MODELS.build(dict(type=TheirHead, **HEAD))


class TheirUNet(backbones.UNet):
    """A user's backbone, which builds upsamplers by type itself."""


class TheirUpsampler(InterpConv):
    """A user's upsampler for it."""


@pytest.mark.parametrize("kind", ["mmseg.InterpConv", InterpConv, "TheirUpsampler", TheirUpsampler])
def test_a_unet_of_ones_own_takes_what_mmsegs_takes(kind):
    for each in (TheirUNet, TheirUpsampler):
        MODELS.register_module(module=each)
    config = dict(type="TheirUNet", base_channels=4)
    assert MODELS.build(config | dict(upsample_cfg=dict(type=kind)))
    with pytest.raises(UpsampleConfigError, match=r"has no upsampler of type 'CARAFE'"):
        MODELS.build(config | dict(upsample_cfg=dict(type="CARAFE")))
