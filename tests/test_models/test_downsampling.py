# SPDX-License-Identifier: Apache-2.0
"""What downsample_cfg does in the necks that have strided convolutions."""

from copy import deepcopy

import pytest
import torch
from components import COMPONENTS, EVEN, ODD, build, call, inputs
from mmdet.models import backbones
from mmdet.registry import MODELS

from mmcarafe import models
from mmcarafe.layers import CARAFEDownsample, DownsampleConfigError

CFG = dict(downsample_cfg=dict(type="CARAFE"), upsample_cfg=dict(type="CARAFE"))


@pytest.mark.parametrize("name", ["PAFPN", "YOLOXPAFPN", "CSPNeXtPAFPN"])
def test_the_bottom_up_path_is_downsampled_and_learns(name):
    _, theirs = build(name, COMPONENTS[name].package)
    _, ours = build(name, **CFG)
    ours.init_weights()
    added = [m for m in ours.modules() if isinstance(m, CARAFEDownsample)]
    assert len(added) == (3 if name == "PAFPN" else 2), "PAFPN pools one level"
    assert set(theirs.state_dict()) < set(ours.state_dict()), "mmdet's weights keep their names"
    for module in added:
        assert module.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.2)
    for sizes in (EVEN, ODD) if COMPONENTS[name].odd else (EVEN,):
        maps = inputs(name, sizes)
        outputs = call(ours, maps)
        assert [o.shape for o in outputs] == [o.shape for o in call(theirs, maps)]
    sum(o.square().sum() for o in outputs).backward()
    assert all(p.grad.abs().max() > 0 for module in added for p in module.parameters())


def test_the_extra_levels_of_an_fpn_are_downsampled():
    neck = models.FPN([4, 8], 4, num_outs=4, add_extra_convs="on_input", downsample_cfg=dict(type="CARAFE"))
    assert [m.channels for m in neck.modules() if isinstance(m, CARAFEDownsample)] == [8, 4]
    levels = neck((torch.rand(1, 4, 25, 38), torch.rand(1, 8, 13, 19)))
    assert [tuple(level.shape[2:]) for level in levels] == [(25, 38), (13, 19), (7, 10), (4, 5)]


@pytest.mark.parametrize("neck", [models.FPN, models.PAFPN])
def test_the_pooled_levels_of_an_fpn_are_downsampled(neck):
    options = dict(in_channels=[4, 8], out_channels=4, num_outs=4)
    ours, theirs = neck(**options, downsample_cfg=dict(type="CARAFE")), neck(**options)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    maps = (torch.rand(1, 4, 25, 38), torch.rand(1, 8, 13, 19))
    levels, expected = ours(maps), theirs(maps)
    assert [level.shape for level in levels] == [level.shape for level in expected]
    if neck is models.FPN:
        assert all(a.equal(b) for a, b in zip(levels[:2], expected[:2], strict=True))
    assert levels[2].equal(ours.extra_levels[0](levels[1]))
    assert levels[3].equal(ours.extra_levels[1](levels[2]))


@pytest.mark.parametrize(("depth", "conv"), [(18, "conv1"), (50, "conv2")])
def test_the_stages_of_a_resnet_are_downsampled(depth, conv):
    options = dict(depth=depth, base_channels=8, downsample_cfg=dict(type="CARAFE", compressed_channels=4))
    ours, theirs = models.ResNet(**options), backbones.ResNet(depth=depth, base_channels=8)
    assert set(theirs.state_dict()) < set(ours.state_dict())
    added = [m for m in ours.modules() if isinstance(m, CARAFEDownsample)]
    assert added == [getattr(ours.get_submodule(f"layer{i}")[0], conv).downsample for i in (2, 3, 4)]
    x = torch.rand(1, 3, 75, 90)
    outputs = ours(x)
    assert [o.shape for o in outputs] == [o.shape for o in theirs(x)]
    sum(o.square().sum() for o in outputs).backward()
    assert all(p.grad.abs().max() > 0 for module in added for p in module.parameters())


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
def test_a_deformable_convolution_hands_over_its_stride_whole(kind):
    dcn = dict(dcn=dict(type=kind, deform_groups=1), stage_with_dcn=(False, True, False, False))
    options = dict(depth=50, base_channels=8, **dcn)
    ours, theirs = models.ResNet(**options, downsample_cfg=dict(type="CARAFE")), backbones.ResNet(**options)
    assert len(ours.downsample_modules) == 3
    conv = ours.layer2[0].conv2
    assert type(conv).__name__.endswith("Conv2dPack") and conv.downsample is ours.downsample_modules[0]
    assert conv.stride == conv.conv_offset.stride == (1, 1) and not hasattr(conv.conv_offset, "downsample")
    x = torch.rand(1, 3, 75, 90)
    outputs = ours(x)
    assert [o.shape for o in outputs] == [o.shape for o in theirs(x)]
    outputs[1].square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in conv.downsample.parameters())


def test_downsamplers_of_frozen_stages_are_frozen_from_the_beginning():
    """DDP waits for the gradient of each parameter that needs one when it is made."""
    options = dict(depth=18, base_channels=8, downsample_cfg=dict(type="CARAFE"))
    backbone = models.ResNet(**options, frozen_stages=2)
    before = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("layer2") for name in before)
    assert sum("layer3" in name and "downsample.content_encoder" in name for name in before) == 2
    backbone.train()
    assert {name for name, parameter in backbone.named_parameters() if parameter.requires_grad} == before


def test_an_initialisation_of_its_own_holds_beside_pretrained_weights(tmp_path):
    options = dict(depth=18, base_channels=8)
    torch.save(backbones.ResNet(**options).state_dict(), tmp_path / "backbone.pth")
    cfg = dict(type="CARAFE", init_cfg=dict(type="Constant", layer="Conv2d", val=0.5))
    load = dict(type="Pretrained", checkpoint=str(tmp_path / "backbone.pth"))
    ours = models.ResNet(**options, downsample_cfg=cfg, init_cfg=load)
    ours.init_weights()
    assert all(module.content_encoder.weight.eq(0.5).all() for module in ours.downsample_modules)
    torch.save(ours.state_dict() | {"layer2.0.conv1.downsample.content_encoder.bias": torch.ones(25)},
               tmp_path / "backbone.pth")  # fmt: skip
    again = models.ResNet(**options, downsample_cfg=cfg, init_cfg=load)
    again.init_weights()
    assert again.downsample_modules[0].content_encoder.bias.eq(1).all(), "what the file holds stays"


def test_a_copy_runs_its_own_downsamplers():
    """EMA copies a model."""
    neck = models.FPN([4, 8], 4, num_outs=3, add_extra_convs="on_input", downsample_cfg=dict(type="CARAFE"))
    other = deepcopy(neck)
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.zero_()
    assert other((torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4)))[2].abs().max() > 0


def test_a_downsampler_without_a_strided_convolution_is_refused():
    for build_one in (
        lambda cfg: models.FPN([4, 8], 4, num_outs=2, downsample_cfg=cfg),
        lambda cfg: models.ResNet(50, style="caffe", downsample_cfg=cfg),
    ):
        with pytest.raises(DownsampleConfigError, match="has no effect"):
            build_one(dict(type="CARAFE"))


def test_a_name_in_place_of_a_dict_is_refused():
    message = (
        r"^downsample_cfg: expected a dict with a type, for instance dict\(type='CARAFE'\), got 'CARAFE'$"
    )
    with pytest.raises(DownsampleConfigError, match=message):
        models.PAFPN([4, 8], 4, num_outs=2, downsample_cfg="CARAFE")


@pytest.mark.parametrize("name", ["ChannelMapper", "BFP", "RPNHead", "ResNeXt"])
def test_a_component_without_one_says_which_have(name):
    with pytest.raises(
        DownsampleConfigError,
        match=f"^{name} takes no downsample_cfg; these do: CSPNeXtPAFPN, FPN",
    ):
        MODELS.build(dict(type=name, downsample_cfg=dict(type="CARAFE")))
