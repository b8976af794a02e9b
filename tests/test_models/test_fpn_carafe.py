# SPDX-License-Identifier: Apache-2.0
"""FPN_CARAFE: mmdet's network with upsamplers that run everywhere."""

import inspect

import pytest
import torch
from mmcv.ops import CARAFEPack
from mmdet.models import necks
from mmdet.registry import MODELS
from samples import assert_close

from mmcarafe.layers import CARAFE, UpsampleConfigError
from mmcarafe.models import FPN_CARAFE

CFGS = [
    dict(type="nearest"),
    dict(type="bilinear"),
    dict(type="deconv"),
    dict(type="deconv", upsample_kernel=3),
    dict(type="deconv", upsample_kernel=4),
    dict(type="pixel_shuffle"),
    dict(type="pixel_shuffle", upsample_kernel=3),
    dict(type="carafe"),
    dict(type="carafe", up_kernel=3, up_group=2, encoder_kernel=1, encoder_dilation=1),
    dict(type="CARAFE", up_kernel=3),
    None,
]
EVEN = ((16, 12), (8, 6))
SMALL = dict(type="carafe", up_kernel=3, compressed_channels=4)


def build(neck=FPN_CARAFE, cfg=SMALL, num_outs=4, **options):
    return neck([4, 6], 4, num_outs=num_outs, upsample_cfg=cfg, **options)


def pyramid(sizes=EVEN, batch=2):
    return tuple(torch.randn(batch, c, *size) for c, size in zip((4, 6), sizes, strict=True))


def randomise(neck):
    for upsample in neck.upsample_modules:
        torch.nn.init.normal_(upsample.content_encoder.weight, std=0.5)


@pytest.mark.parametrize("cfg", CFGS, ids=str)
def test_output_sizes_and_gradients_of_every_parameter(cfg):
    neck = build(cfg=cfg)
    outputs = neck(pyramid())
    assert [tuple(o.shape[2:]) for o in outputs] == [(16, 12), (8, 6), (4, 3), (2, 2)]
    sum(o.square().sum() for o in outputs).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("cfg", CFGS, ids=str)
def test_an_empty_batch_gives_empty_outputs_and_zero_gradients(cfg):
    neck = build(cfg=cfg)
    outputs = neck(pyramid(batch=0))
    assert [len(o) for o in outputs] == [0] * 4
    sum(o.sum() for o in outputs).backward()
    assert all(p.grad.eq(0).all() for p in neck.parameters())


@pytest.mark.parametrize("cfg", CFGS[7:9], ids=str)
@pytest.mark.parametrize(
    "levels", [dict(num_outs=2), dict(num_outs=4), dict(num_outs=3, start_level=1)], ids=str
)
def test_state_dict_is_mmdets(cfg, levels):
    ours, theirs = build(cfg=cfg, **levels), build(necks.FPN_CARAFE, cfg, **levels)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_default_is_mmdets_default():
    ours, theirs = FPN_CARAFE([4, 6], 4, 2), necks.FPN_CARAFE([4, 6], 4, 2)
    (upsample,), (expected,) = ours.upsample_modules, theirs.upsample_modules
    assert type(upsample) is CARAFE
    assert type(expected) is CARAFEPack
    for name in CARAFE.__constants__:
        assert getattr(upsample, name) == getattr(expected, name)


@pytest.mark.usefixtures("mmcv_on_cpu")
@pytest.mark.parametrize("sizes", [EVEN, ((13, 5), (7, 3))], ids=["even", "odd"])
@pytest.mark.parametrize("options", [{}, dict(norm_cfg=dict(type="BN"), act_cfg=dict(type="ReLU"))], ids=str)
def test_every_level_equals_mmdets(sizes, options):
    ours, theirs = build(**options), build(necks.FPN_CARAFE, **options)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    inputs = pyramid(sizes)
    outputs = ours.double()(tuple(x.double() for x in inputs))
    expected = theirs.double()(tuple(x.double() for x in inputs))
    assert len(outputs) == 4
    for actual, level in zip(outputs, expected, strict=True):
        assert_close(actual, level, rtol=1e-9, atol=1e-9)


def test_module_i_upsamples_level_i_plus_1():
    neck = build().eval()
    given = {}
    for i, upsample in enumerate(neck.upsample_modules):
        upsample.register_forward_hook(lambda _, inputs, out, i=i: given.update({i: inputs[0].shape[2:]}))
    neck(pyramid())
    assert given == {2: (2, 2), 1: (4, 3), 0: (8, 6)}


def test_init_weights_is_mmdets():
    necks_built = []
    for kind in (FPN_CARAFE, necks.FPN_CARAFE):
        neck = build(kind, dict(type="carafe"))
        neck.init_weights()
        necks_built.append(neck.state_dict())
    ours, theirs = necks_built
    for name, expected in theirs.items():
        assert ours[name].std().item() == pytest.approx(expected.std().item(), rel=0.25, abs=1e-12), name
    encoders = [value for name, value in ours.items() if name.endswith("content_encoder.weight")]
    assert len(encoders) == 3
    for weight in encoders:
        assert weight.std().item() == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("sizes", [((17, 12), (8, 6)), ((16, 13), (8, 6))], ids=str)
def test_a_target_more_than_twice_the_source_is_refused(sizes):
    target = f"{sizes[0][0]} x {sizes[0][1]}"
    with pytest.raises(ValueError, match=f"a level of 8 x 6 cannot be upsampled by 2 to {target}: expected"):
        build(num_outs=2)(pyramid(sizes))


def test_two_levels_of_one_size_are_refused():
    with pytest.raises(ValueError, match=r"two levels of one size, 8 x 6, .* use FPN with upsample_cfg"):
        build(num_outs=2)(pyramid(((8, 6), (8, 6))))


@pytest.mark.parametrize(
    "cfg", [dict(type="carefe"), dict(type="carafe", up_krenel=3), dict(type=None)], ids=str
)
def test_a_wrong_config_is_refused(cfg):
    with pytest.raises(UpsampleConfigError, match=str(cfg["type"])):
        build(cfg=cfg)


def test_arguments_by_position_as_mmdet_takes_them():
    order = list(inspect.signature(necks.FPN_CARAFE).parameters)
    assert order[:9][-1] == "upsample_cfg"
    neck = FPN_CARAFE([4, 6], 4, 2, 0, -1, None, None, ("conv", "norm", "act"), dict(type="nearest"))
    assert type(neck.upsample_modules[0]) is torch.nn.Upsample


@pytest.mark.parametrize("name", ["FPN_CARAFE", "mmdet.FPN_CARAFE"])
def test_the_registry_has_ours_and_mmdets_class_is_as_it_was(name):
    neck = MODELS.build(dict(type=name, in_channels=[4, 8], out_channels=4, num_outs=2))
    assert type(neck) is FPN_CARAFE
    assert type(necks.FPN_CARAFE([4, 8], 4, 2).upsample_modules[0]) is CARAFEPack
