# SPDX-License-Identifier: Apache-2.0
"""build_upsample: every type at every scale, what it builds, and what it says to a wrong config."""

import copy

import pytest
import torch
from mmcv.cnn import ConvTranspose2d, build_upsample_layer
from mmcv.cnn.bricks.upsample import PixelShufflePack
from mmcv.ops import CARAFEPack
from mmdet import registry as mmdet_registry
from mmdet.models.necks import FPN_CARAFE
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import ConfigDict
from torch import nn

from mmcarafe.layers import CARAFE, TYPES, UpsampleConfigError, build_upsample

DECONV_KERNELS = [dict(upsample_kernel=k) for k in (3, 4, 5)] + [dict(kernel_size=k) for k in (1, 2, 3, 4, 5)]


def assert_same_function(ours, theirs):
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 8, 5, 3)
    assert ours(x).equal(theirs(x))


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", TYPES)
def test_output_is_scale_times_the_input(kind, scale):
    upsample = build_upsample(dict(type=kind), channels=8, scale_factor=scale, guide_channels=8)
    guide = [torch.rand(2, 8, 5 * scale, 3 * scale)] if TYPES[kind].guided else []
    assert upsample(torch.rand(2, 8, 5, 3), *guide).shape == (2, 8, 5 * scale, 3 * scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kernel", DECONV_KERNELS, ids=str)
def test_deconv_of_any_kernel_is_scale_times_the_input(kernel, scale):
    upsample = build_upsample(dict(type="deconv", **kernel), channels=8, scale_factor=scale)
    assert upsample.kernel_size == (*kernel.values(),) * 2
    assert upsample(torch.rand(2, 8, 5, 3)).shape == (2, 8, 5 * scale, 3 * scale)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_deconv_of_scale_1(kernel):
    upsample = build_upsample(dict(type="deconv", kernel_size=kernel), channels=8, scale_factor=1)
    assert upsample(torch.rand(2, 8, 5, 3)).shape == (2, 8, 5, 3)


@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="nearest"),
        dict(type="bilinear"),
        dict(type="deconv", upsample_kernel=3),
        dict(type="pixel_shuffle", upsample_kernel=3),
        dict(type="pixel_shuffle", upsample_kernel=5),
    ],
    ids=str,
)
def test_the_module_of_mmdets_neck(cfg):
    neck = FPN_CARAFE([4, 8], 8, 2, upsample_cfg=ConfigDict(cfg))
    theirs, ours = neck.upsample_modules[0], build_upsample(cfg, channels=8, scale_factor=2)
    assert isinstance(ours, type(theirs))
    assert repr(ours).partition("(")[2] == repr(theirs).partition("(")[2]
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("kind", ["nearest", "bilinear", "deconv"])
def test_the_module_of_mmdets_mask_head(kind, scale):
    head = FCNMaskHead(1, 14, 8, 3, 8, 2, upsample_cfg=dict(type=kind, scale_factor=scale))
    ours = build_upsample(dict(type=kind), channels=8, scale_factor=scale)
    assert repr(ours) == repr(head.upsample)
    assert_same_function(ours, head.upsample)


@pytest.mark.parametrize("kind", ["carafe", "CARAFE", CARAFE], ids=str)
def test_every_name_of_carafe_takes_its_options(kind):
    cfg = dict(type=kind, up_kernel=3, up_group=2, encoder_kernel=1, compressed_channels=4)
    upsample = build_upsample(cfg, channels=8, scale_factor=3)
    assert type(upsample) is CARAFE
    sizes = [getattr(upsample, name) for name in CARAFE.__constants__]
    assert sizes == [8, 3, 3, 2, 1, 1, 4]


def test_mmcv_builds_ours_from_mmengines_registry():
    upsample = build_upsample_layer(dict(type="CARAFE", channels=8))
    assert type(upsample) is CARAFE
    assert upsample(torch.rand(1, 8, 5, 3)).shape == (1, 8, 10, 6)


@pytest.mark.parametrize("cfg_class", [dict, ConfigDict])
@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="deconv", upsample_kernel=3),
        dict(type="pixel_shuffle", upsample_kernel=3),
        dict(type="CARAFE", up_kernel=3, scale_factor=2),
    ],
    ids=str,
)
def test_the_config_is_left_as_it_was(cfg, cfg_class):
    given = cfg_class(copy.deepcopy(cfg))
    first, second = (build_upsample(given, channels=8, scale_factor=2) for _ in range(2))
    assert given == cfg
    assert repr(first) == repr(second)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(type="carefe"), "upsample_cfg type 'carefe' is not known; did you mean 'carafe'?"),
        (dict(type="CARAFEPack"), "did you mean 'CARAFE'?"),
        (dict(type="Deconv"), "did you mean 'deconv'?"),
        (dict(type="pixelshuffle"), "did you mean 'pixel_shuffle'?"),
        (dict(type=None), "upsample_cfg type None"),
        (dict(type=3), "upsample_cfg type 3"),
        (dict(up_kernel=3), "upsample_cfg"),
        (dict(type="CARAFE", up_krenel=3), "type 'CARAFE': got an unexpected keyword argument 'up_krenel'"),
        (
            dict(type="CARAFE", up_krenel=3),
            "it takes channels, scale_factor, up_kernel, up_group, encoder_kernel, encoder_dilation, "
            "compressed_channels, norm_cfg, act_cfg, init_cfg",
        ),
        (dict(type="CARAFE", up_kernel=4), "type 'CARAFE': up_kernel: expected an odd number, got 4"),
        (dict(type="carafe", up_group=3), "up_group: expected a divisor of the 8 channels, got 3"),
        (dict(type="nearest", up_kernel=3), "type 'nearest': got an unexpected keyword argument 'up_kernel'"),
        (
            dict(type="pixel_shuffle", kernel=3),
            "it takes in_channels, out_channels, scale_factor, upsample_kernel",
        ),
        (dict(type="deconv", up_kernel=3), "type 'deconv': got an unexpected keyword argument 'up_kernel'"),
        (dict(type="deconv", upsample_kernel="3"), "type 'deconv'"),
        (dict(type=nn.Conv2d), "missing a required argument: 'in_channels'"),
        (
            dict(type="CARAFE", scale_factor=3),
            "type 'CARAFE': this component upsamples by 2; leave scale_factor out",
        ),
        (dict(type="deconv", scale_factor=4), "this component upsamples by 2; leave scale_factor out"),
    ],
    ids=str,
)
def test_wrong_config(cfg, message):
    with pytest.raises(UpsampleConfigError) as caught:
        build_upsample(cfg, channels=8, scale_factor=2)
    assert message in str(caught.value)


def test_a_guided_type_without_a_guide_names_the_types_that_need_none():
    with pytest.raises(UpsampleConfigError) as caught:
        build_upsample(dict(type="SAPA"), 8, 2, component="MyHead")
    message = str(caught.value)
    assert (
        "type 'SAPA' needs a guide, a finer map that its result joins, which MyHead does not have" in message
    )
    work = message.partition("types that work there: ")[2].split(", ")
    assert work == [name for name, row in TYPES.items() if not row.guided]


def test_the_error_is_a_value_error():
    assert issubclass(UpsampleConfigError, ValueError)


def test_no_suggestion_where_nothing_is_close_but_all_types():
    with pytest.raises(UpsampleConfigError, match="type 'xyz' is not known") as caught:
        build_upsample(dict(type="xyz"), channels=8, scale_factor=2)
    message = str(caught.value)
    assert "did you mean" not in message
    assert all(f"{kind}," in message for kind in TYPES)
    assert len(message) < 400
    assert "any module registered in MODELS that takes channels and scale_factor" in message


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("mmengine.CARAFE", "CARAFE"),
        ("mmengine.carafe", "carafe"),
        ("mmengine.deconv", "deconv"),
        ("mmengine.bilinear", "bilinear"),
        ("mmengine.pixel_shuffle", "pixel_shuffle"),
        (CARAFEPack, "carafe"),
        (PixelShufflePack, "pixel_shuffle"),
        (ConvTranspose2d, "deconv"),
    ],
    ids=str,
)
def test_a_type_with_a_scope_or_as_a_class_is_the_type_of_its_name(given, kind):
    ours, plain = (build_upsample(dict(type=t), 8, 2, mmdet_registry.MODELS) for t in (given, kind))
    assert repr(ours) == repr(plain)
    assert type(ours) is type(plain)


def test_torchs_upsample_is_no_name():
    with pytest.raises(UpsampleConfigError, match="unexpected keyword argument 'channels'"):
        build_upsample(dict(type=nn.Upsample, mode="bilinear"), channels=8, scale_factor=2)
