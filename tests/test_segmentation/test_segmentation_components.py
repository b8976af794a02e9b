# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's components: its own without a type, and with any type of upsampler in their steps."""

import copy

import pytest
import torch
from interpolations import Record
from samples import assert_close

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

from mmengine.registry import DefaultScope
from mmseg.models import backbones, decode_heads, necks
from mmseg.models.backbones.unet import InterpConv

from mmcarafe import segmentation
from mmcarafe.errors import UpsampleConfigError
from mmcarafe.layers import TYPES

HEAD = dict(in_channels=[4, 6, 8, 10], in_index=[0, 1, 2, 3], channels=4, num_classes=3, dropout_ratio=0)
LEVELS = [(4, 32), (6, 16), (8, 8), (10, 4)]
COMPONENTS = {
    "UPerHead": (decode_heads, HEAD),
    "PSPHead": (decode_heads, HEAD | dict(in_channels=10, in_index=3)),
    "FPNHead": (decode_heads, HEAD | dict(feature_strides=[4, 8, 16, 32])),
    "SegformerHead": (decode_heads, HEAD),
    "FPN": (necks, dict(in_channels=[4, 6, 8, 10], out_channels=4, num_outs=4)),
    "UNet": (backbones, dict(base_channels=4)),
}
# what has a guide in each of its steps
GUIDED = {"UPerHead": dict(upsample_in=["fpn", "fusion"]), "SegformerHead": {}, "FPN": {}}
every_component = pytest.mark.parametrize("name", COMPONENTS)


@pytest.fixture(autouse=True)
def scope():
    """As in every config of mmsegmentation's; its UNet is not built without."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def test_all_are_here():
    assert set(COMPONENTS) == set(segmentation.__all__)


def build(name: str, package=segmentation, **options):
    torch.manual_seed(0)
    module = getattr(package, name)(**copy.deepcopy(COMPONENTS[name][1]) | options)
    module.init_weights()
    module.eval()  # of which its UNet returns None
    return module


def inputs(name: str):
    generator = torch.Generator().manual_seed(1)
    if name == "UNet":
        return torch.randn(1, 3, 32, 48, generator=generator)
    shapes = [(2, channels, side, side + side // 4) for channels, side in LEVELS]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def flat(output) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else list(output)


@every_component
def test_without_a_type_it_is_mmsegs_own(name):
    theirs, ours = build(name, COMPONENTS[name][0]), build(name)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(value.equal(state[key]) for key, value in ours.state_dict().items())
    for a, b in zip(flat(ours(inputs(name))), flat(theirs(inputs(name))), strict=True):
        assert a.equal(b)


@every_component
def test_the_steps_are_mmsegs_interpolations(name):
    with Record() as record:
        build(name, COMPONENTS[name][0])(inputs(name))
    ours = build(name, upsample_cfg=dict(type="CARAFE"))
    if name == "UNet":
        enlarged = [(channels, out[0] // source[0]) for channels, source, out in record.calls]
        assert [(m.channels, m.scale_factor) for m in ours.upsample_modules] == enlarged
        return
    steps = ours.upsample_steps()
    for step, (channels, source, out) in zip(steps, record.calls, strict=True):
        if step is None:
            assert out == source
        elif step.pooled:
            assert step.channels == channels
        else:
            assert step.channels == channels
            assert [step.scale * n for n in source] == list(out)


@every_component
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_keeps_the_sizes_and_learns(name, kind):
    if TYPES[kind].guided and name not in GUIDED:
        return
    options = GUIDED[name] if TYPES[kind].guided else {}
    ours = build(name, upsample_cfg=dict(type=kind), **options)
    levels = inputs(name)
    out, theirs = flat(ours(levels)), flat(build(name, COMPONENTS[name][0])(levels))
    assert [o.shape for o in out] == [o.shape for o in theirs]
    sum(o.square().sum() for o in out).backward()
    missing = [key for key, p in ours.named_parameters() if p.grad is None]
    assert all(key.startswith("conv_seg") or "fpn_convs" in key for key in missing), missing
    if parameters := [p for m in ours.upsample_modules for p in m.parameters()]:
        assert all(p.grad is not None for p in parameters)


@pytest.mark.parametrize("name", ["FPNHead", "SegformerHead", "UPerHead", "UNet"])
def test_bilinear_is_mmsegs_interpolation(name):
    """As a module at each step; in the pooling pyramid it would be two interpolations for one."""
    options = dict(upsample_in=["fpn", "fusion"]) if name == "UPerHead" else {}
    theirs, ours = (
        build(name, COMPONENTS[name][0]),
        build(name, upsample_cfg=dict(type="bilinear"), **options),
    )
    for a, b in zip(flat(ours(inputs(name))), flat(theirs(inputs(name))), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", ["UPerHead", "PSPHead"])
def test_the_pooling_pyramid_is_interpolated_and_then_upsampled(name):
    """Cells that the map is not twice as large as are interpolated alone, as 3 x 3 on 4 x 5."""
    options = dict(upsample_in=["ppm"]) if name == "UPerHead" else {}
    theirs = build(name, COMPONENTS[name][0])
    ours = build(name, upsample_cfg=dict(type="CARAFE"), **options)
    assert len(ours.upsample_modules) == 4
    sizes = []
    for module in ours.upsample_modules:
        module.register_forward_hook(lambda m, x, y: sizes.append((*x[0].shape[2:], *y.shape[2:])))
    changed = ours(inputs(name))
    assert sizes == [(2, 3, 4, 6)] * 2
    assert not changed.equal(theirs(inputs(name)))
    changed.sum().backward()
    assert all(p.grad is not None for module in ours.upsample_modules for p in module.parameters())


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_cells_value_is_not_lost_in_padding(align_corners):
    """CARAFE begins as an average of 5 x 5: it lessens one value where it reaches over the border alone."""
    head = build("PSPHead", upsample_cfg=dict(type="CARAFE"), align_corners=align_corners)
    level = torch.ones(1, 10, 16, 20)
    plain = head.psp_modules(level)
    with head.answering([level]):
        upsampled = head.psp_modules(level)
    for actual, expected in zip(upsampled, plain, strict=True):
        assert actual.shape == expected.shape and expected.any()
        assert_close(actual[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])


def test_each_place_of_uperhead_alone():
    counts = dict(ppm=4, fpn=3, fusion=3)
    for place, count in counts.items():
        assert (
            len(build("UPerHead", upsample_cfg=dict(type="CARAFE"), upsample_in=[place]).upsample_modules)
            == count
        )
    assert len(build("UPerHead", upsample_cfg=dict(type="CARAFE")).upsample_modules) == sum(counts.values())


@pytest.mark.parametrize("name", ["UPerHead", "PSPHead"])
def test_a_head_that_only_asks_for_the_features_gets_the_selected_ones(name):
    """As KNet does."""
    ours = build(name, upsample_cfg=dict(type="CARAFE"))
    calls = []
    for module in ours.upsample_modules:
        module.register_forward_hook(lambda m, x, y: calls.append(m))
    levels = inputs(name)
    assert ours.cls_seg(ours._forward_feature(levels)).equal(ours(levels))
    assert len(calls) == 2 * len(set(calls)) > 0


@pytest.mark.parametrize("name", ["UPerHead", "SegformerHead", "FPN"])
@pytest.mark.parametrize("sides", [(32, 16, 8, 8), (22, 11, 5, 2), (25, 13, 7, 4)], ids=str)
@pytest.mark.parametrize("kind", ["CARAFE", "SAPA"])
def test_levels_of_other_sizes_get_what_mmseg_gives(name, sides, kind):
    """Dilated stages, sizes rounded down or up: the interpolation does what the scale does not."""
    options = GUIDED[name] if kind == "SAPA" else {}
    ours = build(name, upsample_cfg=dict(type=kind), **options)
    levels = tuple(torch.randn(1, c, side, side) for (c, _), side in zip(LEVELS, sides, strict=True))
    theirs = build(name, COMPONENTS[name][0])
    out = flat(ours(levels))
    assert [o.shape for o in out] == [o.shape for o in flat(theirs(levels))]
    sum(o.square().sum() for o in out).backward()
    assert all(p.grad is not None for m in ours.upsample_modules for p in m.parameters())


def test_fpnhead_follows_the_layers_that_mmseg_makes():
    head = build("FPNHead", upsample_cfg=dict(type="CARAFE"), feature_strides=[4, 4, 8, 12])
    assert len(head.upsample_modules) == 2
    levels = tuple(
        torch.randn(1, c, side, side) for (c, _), side in zip(LEVELS, (24, 24, 12, 12), strict=True)
    )
    assert head(levels).shape == (1, 3, 24, 24)


def test_inputs_that_a_pooling_pyramid_joins_are_interpolated():
    options = HEAD | dict(input_transform="resize_concat")
    head = segmentation.PSPHead(**options, upsample_cfg=dict(type="CARAFE"))
    levels = tuple(torch.randn(1, c, side, side) for c, side in LEVELS)
    assert head(levels).shape == (1, 3, 32, 32) and len(head.upsample_modules) == 4


def test_mistakes_are_named():
    with pytest.raises(UpsampleConfigError, match="has no effect, since all levels have one stride"):
        build("FPNHead", upsample_cfg=dict(type="CARAFE"), feature_strides=[4, 4, 4, 4])
    with pytest.raises(UpsampleConfigError, match="upsample_in has no effect without an upsample_cfg"):
        build("UPerHead", upsample_in=["fpn"])
    with pytest.raises(UpsampleConfigError, match="expected a list of ppm, fpn, fusion, got"):
        build("UPerHead", upsample_cfg=dict(type="CARAFE"), upsample_in=[])
    with pytest.raises(UpsampleConfigError, match="expected a list of ppm, fpn, fusion, got 'fpn'"):
        build("UPerHead", upsample_in="fpn")
    with pytest.raises(UpsampleConfigError, match="the pooling pyramid of UPerHead"):
        build("UPerHead", upsample_cfg=dict(type="SAPA"))
    with pytest.raises(UpsampleConfigError, match="FPNHead upsamples in a fixed way"):
        build("FPNHead", upsample_cfg=dict(mode="nearest"))
    with pytest.raises(UpsampleConfigError, match="did you mean 'CARAFE'"):
        build("FPN", upsample_cfg=dict(type="CARAFFE"))


@pytest.mark.parametrize("kind", ["InterpConv", "DeconvModule", "mmseg.InterpConv", InterpConv])
def test_types_of_unet_stay_mmsegs(kind):
    options = dict(kernel_size=4) if kind == "DeconvModule" else {}
    theirs, ours = (
        build("UNet", package, upsample_cfg=dict(type=kind, **options))
        for package in (backbones, segmentation)
    )
    for a, b in zip(ours(inputs("UNet")), theirs(inputs("UNet")), strict=True):
        assert a.equal(b)


def test_the_upsamplers_start_as_published():
    """Though the component initialises every convolution its own way."""
    for name in ("FPN", "UNet"):
        for module in build(name, upsample_cfg=dict(type="CARAFE")).upsample_modules:
            assert 0.0005 < module.content_encoder.weight.std() < 0.0015
