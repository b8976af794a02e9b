# SPDX-License-Identifier: Apache-2.0
"""Configs that give classes in place of names, and users' subclasses of mmdet's classes."""

import mmengine.hooks
import pytest
from mmcv.transforms import RandomFlip
from mmdet import models as theirs
from mmdet.models import necks
from mmdet.models.dense_heads import SOLOV2Head
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS
from torch import nn

from mmcarafe import models
from mmcarafe.layers import CARAFE, UpsampleConfigError

NECK = dict(in_channels=[4, 8], out_channels=4, num_outs=2)
CARAFE_CFG = dict(upsample_cfg=dict(type="CARAFE"))


class TheirFPN(necks.FPN):
    """A user's neck."""


class TheirMaskHead(FCNMaskHead):
    """A user's mask head."""


class TheirSOLOV2Head(SOLOV2Head):
    """A user's head, whose part that upsamples is in no registry."""


class OurFPN(models.FPN):
    """A user's neck, derived as the message says."""


@pytest.fixture(autouse=True)
def registered():
    for kind in (TheirFPN, TheirMaskHead, TheirSOLOV2Head, OurFPN):
        MODELS.register_module(module=kind)


@pytest.mark.parametrize("cfg_class", [dict, ConfigDict])
@pytest.mark.parametrize("name", ["FPN", "PAFPN", "FPN_CARAFE"])
def test_mmdets_class_is_replaced_as_its_name_is(name, cfg_class):
    cfg = cfg_class(type=getattr(necks, name), **NECK, **CARAFE_CFG)
    neck = MODELS.build(cfg)
    assert type(neck) is getattr(models, name)
    assert type(neck.upsample_modules[0]) is CARAFE
    assert cfg["type"] is getattr(necks, name), "the config is left as it was"


def test_a_pure_python_config(tmp_path):
    (tmp_path / "base.py").write_text(
        "from mmdet.models.necks.fpn import FPN\n"
        "neck = dict(type=FPN, in_channels=[4, 8], out_channels=4, num_outs=2)\n"
    )
    (tmp_path / "config.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from .base import *\n"
        "neck.update(upsample_cfg=dict(type='CARAFE'))\n"
    )
    neck = MODELS.build(Config.fromfile(tmp_path / "config.py").neck)
    assert type(neck.upsample_modules[0]) is CARAFE


def test_a_class_by_its_path_as_a_dumped_config_has_it():
    assert type(MODELS.build(dict(type="mmdet.models.FPN", **NECK, **CARAFE_CFG))) is models.FPN
    assert type(MODELS.build(dict(type="mmdet.models.necks.fpn.FPN", **NECK))) is models.FPN
    assert type(MODELS.build(dict(type="mmdet.models.SSDNeck", in_channels=[4], out_channels=[4, 8],
                                  level_strides=[2], level_paddings=[1]))) is necks.SSDNeck  # fmt: skip
    hook = HOOKS.build(dict(type="mmengine.hooks.CheckpointHook"))
    assert type(hook).__module__.startswith("mmcarafe.")


def test_parts_and_lists_of_configs():
    head = dict(
        type=FCNMaskHead, num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3, **CARAFE_CFG
    )
    assert type(MODELS.build(head)) is models.FCNMaskHead
    sequence = MODELS.build([dict(type=necks.FPN, **NECK), dict(type="ReLU")])
    assert [type(module) for module in sequence] == [models.FPN, nn.ReLU]


def test_hooks_and_others_given_as_classes():
    assert type(HOOKS.build(dict(type=mmengine.hooks.CheckpointHook))).__module__.startswith("mmcarafe.")
    assert type(HOOKS.build(dict(type=mmengine.hooks.IterTimerHook))) is mmengine.hooks.IterTimerHook
    flip = dict(type=RandomFlip, prob=0.5)
    assert type(MODELS.build(flip)) is RandomFlip, "mmdet's of this name is not ours"


@pytest.mark.parametrize("kind", ["TheirFPN", "mmdet.TheirFPN", TheirFPN], ids=str)
def test_a_subclass_of_mmdets_class_is_refused_with_the_class_to_derive_from(kind):
    with pytest.raises(
        UpsampleConfigError, match=r"TheirFPN derives from mmdet's FPN.*mmcarafe\.models\.FPN,"
    ):
        MODELS.build(dict(type=kind, **NECK, **CARAFE_CFG))
    assert type(MODELS.build(dict(type=kind, **NECK))) is TheirFPN
    assert type(MODELS.build(dict(type=kind, **NECK, upsample_cfg=dict(mode="bilinear")))) is TheirFPN


@pytest.mark.parametrize("name", ["OurFPN", "PAFPN", "FPN_DropBlock"])
def test_a_subclass_of_ours_takes_the_upsampler(name):
    neck = MODELS.build(dict(type=name, **NECK, **CARAFE_CFG))
    assert type(neck) is getattr(models, name, OurFPN)
    assert type(neck.upsample_modules[0]) is CARAFE


def test_a_subclass_keeps_the_types_that_mmdets_class_has():
    head = dict(type="TheirMaskHead", num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3)
    for kind in ("deconv", "bilinear", None):
        assert type(MODELS.build(dict(head, upsample_cfg=dict(type=kind, scale_factor=2)))) is TheirMaskHead
    with pytest.raises(
        UpsampleConfigError, match=r"no upsampler of type 'CARAFE'.*mmcarafe\.models\.FCNMaskHead"
    ):
        MODELS.build(dict(head, **CARAFE_CFG))


def test_a_part_without_a_type_of_its_own():
    with pytest.raises(UpsampleConfigError, match=r"TheirSOLOV2Head derives from mmdet's SOLOV2Head"):
        MODELS.build(dict(type="TheirSOLOV2Head", mask_feature_head=dict(in_channels=8, **CARAFE_CFG)))


def test_stock_classes_stay_stock_while_ours_are_not_registered(stock):
    with stock():
        assert type(MODELS.build(dict(type=theirs.FPN, **NECK))) is theirs.FPN


def test_a_users_own_type_in_a_subclass_of_mmdets_is_refused_with_the_class_to_derive_from():
    """mmdet's mask head knows its types alone, and would end in a trace."""
    config = dict(type="TheirMaskHead", num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3)
    with pytest.raises(
        UpsampleConfigError, match=r"no upsampler of type 'TheirFPN': derive it from mmcarafe"
    ):
        MODELS.build(config | dict(upsample_cfg=dict(type="TheirFPN")))
