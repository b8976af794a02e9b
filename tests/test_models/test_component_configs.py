# SPDX-License-Identifier: Apache-2.0
"""What upsample_cfg may say in every neck and head, and which classes understand it."""

import pytest
import torch
import torch.nn.functional as F
from components import COMPONENTS, build, call, every_component, inputs, run, upsamplers
from mmdet.models import backbones
from mmdet.registry import MODELS
from samples import assert_close
from torch import nn

from mmcarafe import models
from mmcarafe.layers import CARAFE, UpsampleConfigError
from mmcarafe.models.dense_heads import CondInstMaskFeatModule
from mmcarafe.selecting.select_upsample import SelectUpsample, Step


@every_component
def test_options_reach_the_upsamplers(name):
    _, part = build(name, upsample_cfg=dict(type="CARAFE", up_kernel=3, up_group=2, compressed_channels=4))
    assert {(m.up_kernel, m.up_group, m.compressed_channels) for m in upsamplers(part)} == {(3, 2, 4)}


@every_component
@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            "CARAFE",
            r"^upsample_cfg: expected a dict with a type, for instance dict\(type='CARAFE'\), got 'CARAFE'$",
        ),
        (dict(type="carefe"), "did you mean 'carafe'"),
        (dict(type="CARAFE", up_krenel=3), "unexpected keyword argument 'up_krenel'"),
        (dict(type="CARAFE", scale_factor=3), "leave scale_factor out"),
    ],
    ids=str,
)
def test_a_wrong_config_is_refused(name, cfg, message):
    with pytest.raises(UpsampleConfigError, match=message):
        build(name, upsample_cfg=cfg)


OPEN = ("FPN", "FPN_DropBlock", "RFP", "YOLOXPAFPN", "CSPNeXtPAFPN")


@pytest.mark.parametrize("name", OPEN)
def test_an_interpolation_that_mmdet_leaves_open_is_mmdets(name):
    fixed = name in ("YOLOXPAFPN", "CSPNeXtPAFPN")
    cfg = dict(scale_factor=2, mode="bilinear") if fixed else dict(mode="bilinear")
    outputs = []
    for package in (models, COMPONENTS[name].package):
        _, part = build(name, package, upsample_cfg=cfg)
        outputs.append(run(name, part)[0])
    for actual, expected in zip(*outputs, strict=True):
        assert actual.equal(expected)


@pytest.mark.parametrize("name", sorted(set(COMPONENTS) - set(OPEN)))
def test_an_interpolation_that_mmdet_fixes_cannot_be_configured(name):
    with pytest.raises(UpsampleConfigError, match="expected an upsample_cfg with a type"):
        build(name, upsample_cfg=dict(mode="bicubic"))


@pytest.mark.parametrize("name", ["YOLOXPAFPN", "CSPNeXtPAFPN"])
def test_the_interpolation_of_a_base_config_may_stay_beside_a_type(name):
    """A child config's dict(type="CARAFE") is merged into YOLOX's upsample_cfg."""
    _, part = build(name, upsample_cfg=dict(scale_factor=2, mode="nearest", type="CARAFE"))
    assert [type(m) for m in upsamplers(part)] == [CARAFE, CARAFE]
    _, part = build(name, upsample_cfg=dict(scale_factor=2, mode="nearest", type="bilinear"))
    assert {m.mode for m in upsamplers(part)} == {"bilinear"}


def test_fpg_without_a_transition_that_enlarges_refuses_an_upsampler():
    options = {**COMPONENTS["FPG"].options, "across_down_trans": None}
    with pytest.raises(UpsampleConfigError, match="interpolation_conv"):
        models.FPG(**options, upsample_cfg=dict(type="CARAFE"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "FPN",
            dict(in_channels=[4, 8], out_channels=4, start_level=1, num_outs=2, add_extra_convs="on_input"),
        ),
        ("FusedSemanticHead", dict(COMPONENTS["FusedSemanticHead"].options, num_ins=2, fusion_level=1)),
        ("PanopticFPNHead", dict(COMPONENTS["PanopticFPNHead"].options, start_level=0, end_level=1)),
    ],
)
def test_a_selection_without_a_step_is_named(name, options):
    with pytest.raises(UpsampleConfigError, match=f"{name}: upsample_cfg .* has no effect"):
        getattr(models, name)(**options, upsample_cfg=dict(type="CARAFE"))
    assert not getattr(models, name)(**options).upsample_modules


def test_mask_features_of_one_level_are_named():
    options = dict(in_channels=4, feat_channels=4, out_channels=4, mask_stride=8, num_stacked_convs=1)
    one = dict(start_level=0, end_level=0, upsample_cfg=dict(type="CARAFE"))
    with pytest.raises(
        UpsampleConfigError, match=r"mask_feature_head: upsample_cfg .* no effect on one level"
    ):
        CondInstMaskFeatModule(**options, **one)
    assert len(CondInstMaskFeatModule(**options, **dict(one, end_level=2)).upsample_modules) == 2


def test_a_users_head_may_give_what_mmdets_takes_by_position():
    class Theirs(models.SOLOV2Head):
        def __init__(self, num_classes, in_channels, **kwargs):
            super().__init__(num_classes, in_channels, **kwargs)

    features = dict(feat_channels=4, start_level=0, end_level=1, out_channels=8, mask_stride=4)
    cfg = dict(features, upsample_cfg=dict(type="CARAFE"))
    loss = dict(loss_cls=dict(type="FocalLoss", use_sigmoid=True), loss_mask=dict(type="DiceLoss"))
    head = Theirs(3, 8, mask_feature_head=cfg, feat_channels=8, stacked_convs=1, norm_cfg=None, **loss)
    assert head.num_classes == 3 and type(head.mask_feature_head) is head.mask_features


def test_the_mixin_in_front_of_a_module_of_torch():
    class Theirs(nn.Module):
        def forward(self, x):
            return F.interpolate(x, scale_factor=2)

    class Ours(SelectUpsample, Theirs):
        def upsample_steps(self):
            return [Step(0, 4, 2)]

    neck = Ours(upsample_cfg=dict(type="CARAFE"))
    nn.init.normal_(neck.upsample_modules[0].content_encoder.weight)  # as a parent's initialisation might
    neck.init_weights()
    assert neck.upsample_modules[0].content_encoder.weight.std() < 0.01
    assert neck(torch.rand(1, 4, 8, 8)).shape == (1, 4, 16, 16)
    Ours().init_weights()


@every_component
def test_a_registered_upsampler_can_be_selected(name):
    class Repeat(nn.Module):
        def __init__(self, channels, scale_factor, mode="nearest"):
            super().__init__()
            self.channels, self.scale_factor = channels, scale_factor

        def forward(self, x):
            assert x.shape[1] == self.channels
            return F.interpolate(x, scale_factor=self.scale_factor)

    MODELS.register_module(name="RepeatInTest", module=Repeat)
    _, ours = build(name, upsample_cfg=dict(type="RepeatInTest"))
    _, nearest = build(name, upsample_cfg=dict(type="nearest"))
    maps = inputs(name)
    for module in (ours, nearest):
        module.eval()
    for actual, expected in zip(call(ours, maps), call(nearest, maps), strict=True):
        assert_close(actual, expected)


@every_component
def test_the_registry_has_ours_and_mmdets_class_is_as_it_was(name):
    ours, theirs = getattr(models, name), getattr(COMPONENTS[name].package, name)
    for registered in (name, f"mmdet.{name}"):
        assert MODELS.get(registered) is ours
    assert theirs is not ours
    assert theirs in ours.__mro__
    assert theirs.__module__.startswith("mmdet.")


def test_every_component_is_listed():
    mask_heads = {"FCNMaskHead", "HTCMaskHead", "SCNetMaskHead", "DynamicMaskHead"}
    elsewhere = {"CARAFE", "FPN_CARAFE", "MaskFormerHead", "ResNet"} | mask_heads  # have tests of their own
    assert set(models.__all__) == set(COMPONENTS) | elsewhere


def test_no_subclass_of_mmdets_is_forgotten():
    """One that mmdet derives from a class taken over would ignore upsample_cfg, or stumble over it."""
    ours = [getattr(models, name) for name in models.__all__ if name != "CARAFE"]
    parents = {c for kind in ours for c in kind.__mro__ if c.__name__ == kind.__name__} - set(ours)
    forgotten = {
        name
        for name, kind in MODELS.module_dict.items()
        if kind not in ours and kind.__mro__[1:] and parents & set(kind.__mro__[1:])
    }
    with_their_own_stages = {name for name in forgotten if issubclass(MODELS.get(name), backbones.ResNet)}
    assert forgotten - with_their_own_stages == {
        "CoarseMaskHead",  # does not upsample
        "Mask2FormerHead",  # its pixel decoder upsamples
        "Mask2FormerTrackHead",
    }
