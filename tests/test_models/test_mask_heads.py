# SPDX-License-Identifier: Apache-2.0
"""Mask heads: mmdet's own without our types, and every upsampler with them."""

import inspect

import pytest
import torch
from mmdet.models.roi_heads import mask_heads
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from samples import assert_close

from mmcarafe import models
from mmcarafe.layers import CARAFE, TYPES, UpsampleConfigError

UNGUIDED = [name for name, row in TYPES.items() if not row.guided]
SIZES = dict(num_convs=2, roi_feat_size=6, in_channels=8, conv_out_channels=8, num_classes=3)
DYNAMIC_CONV = dict(
    type="DynamicConv",
    in_channels=8,
    feat_channels=4,
    out_channels=8,
    input_feat_shape=6,
    with_proj=False,
    act_cfg=dict(type="ReLU", inplace=True),
    norm_cfg=dict(type="LN"),
)
HEADS = {
    "FCNMaskHead": {},
    "HTCMaskHead": {},
    "SCNetMaskHead": {},
    "DynamicMaskHead": dict(dynamic_conv_cfg=DYNAMIC_CONV),
}
# what mmdet's FCNMaskHead can build and run on a CPU
MMDETS_OWN = {
    "default": {},
    "deconv_3": dict(upsample_cfg=dict(type="deconv", scale_factor=3)),
    "nearest": dict(upsample_cfg=dict(type="nearest", scale_factor=2)),
    "bilinear": dict(upsample_cfg=dict(type="bilinear", scale_factor=4)),
    "none": dict(upsample_cfg=dict(type=None)),
    "agnostic": dict(class_agnostic=True, norm_cfg=dict(type="GN", num_groups=2)),
    "no_convs": dict(num_convs=0, conv_out_channels=4),
    "predictor": dict(predictor_cfg=dict(type="mmdet.NormedConv2d", power=2)),
}
every_head = pytest.mark.parametrize("name", HEADS)
every_type = pytest.mark.parametrize("kind", UNGUIDED)


def build(name, package=models, **options):
    return getattr(package, name)(**{**SIZES, **HEADS[name], **options})


def run(head, rois=2):
    """Logits of that many RoIs; HTC hands features from head to head, DynamicMaskHead takes proposals."""
    inputs = [torch.randn(rois, head.in_channels, 6, 6)]
    if isinstance(head, mask_heads.HTCMaskHead):
        return head(*inputs, res_feat=torch.randn(rois, head.conv_out_channels, 6, 6))[0]
    if isinstance(head, mask_heads.DynamicMaskHead):
        inputs.append(torch.randn(rois, head.in_channels))
    return head(*inputs)


@every_type
@every_head
def test_output_size_and_gradients_of_every_parameter(name, kind):
    head = build(name, upsample_cfg=dict(type=kind))
    out = run(head)
    assert out.shape == (2, 3, 12, 12)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    for parameter in head.upsample.parameters():
        assert parameter.grad.abs().max() > 0


@every_type
@every_head
def test_no_rois_give_an_empty_output_and_zero_gradients(name, kind):
    head = build(name, upsample_cfg=dict(type=kind))
    out = run(head, rois=0)
    assert out.shape == (0, 3, 12, 12)
    out.sum().backward()
    assert all(parameter.grad.eq(0).all() for parameter in head.parameters())


@pytest.mark.parametrize("kind", sorted(TYPES.keys() - UNGUIDED))
@every_head
def test_a_guided_type_is_refused_with_those_that_work(name, kind):
    with pytest.raises(UpsampleConfigError, match=f"{name} does not have; .*: {', '.join(UNGUIDED)}$"):
        build(name, upsample_cfg=dict(type=kind))


@every_head
@pytest.mark.parametrize("scale", [1, 3, 4])
def test_scale_factor(name, scale):
    head = build(name, upsample_cfg=dict(type="CARAFE", scale_factor=scale))
    assert run(head).shape == (2, 3, 6 * scale, 6 * scale)


@pytest.mark.parametrize("options", MMDETS_OWN.values(), ids=MMDETS_OWN)
def test_mmdets_types_are_mmdets_bit_for_bit(options):
    heads = []
    for package in (models, mask_heads):
        torch.manual_seed(0)
        head = build("FCNMaskHead", package, **options)
        head.init_weights()
        heads.append(head)
    ours, theirs = (head.state_dict() for head in heads)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    x = torch.randn(2, 8, 6, 6)
    assert heads[0](x).equal(heads[1](x))


@every_head
def test_the_state_dict_of_carafe_is_mmdets(name):
    cfg = dict(type="carafe", scale_factor=2, up_kernel=5, up_group=1, encoder_kernel=3, encoder_dilation=1)
    ours, theirs = (build(name, package, upsample_cfg=cfg) for package in (models, mask_heads))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


@every_head
@pytest.mark.usefixtures("mmcv_on_cpu")
def test_the_output_of_carafe_is_mmdets(name):
    cfg = dict(type="carafe", scale_factor=2, up_kernel=3, compressed_channels=4)
    ours, theirs = (build(name, package, upsample_cfg=cfg) for package in (models, mask_heads))
    torch.nn.init.normal_(theirs.upsample.content_encoder.weight, std=0.5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    outputs = []
    for head in (ours, theirs):
        torch.manual_seed(0)
        outputs.append(run(head))
    assert_close(*outputs)


@every_head
def test_init_weights_leaves_the_encoder_near_zero(name):
    head = build(name, upsample_cfg=dict(type="CARAFE"))
    head.init_weights()
    assert head.upsample.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert head.upsample.content_encoder.bias.eq(0).all()


def test_a_relu_follows_the_deconvolution_and_only_that():
    for cfg, rectified in ((dict(type="deconv", upsample_kernel=4), True), (dict(type="CARAFE"), False)):
        head = build("FCNMaskHead", num_convs=0, upsample_cfg=cfg)
        head.conv_logits = torch.nn.Identity()
        assert run(head).lt(0).any().item() is not rectified


def test_options_reach_the_upsampler():
    head = build("FCNMaskHead", upsample_cfg=dict(type="CARAFE", up_kernel=3, up_group=2))
    assert type(head.upsample) is CARAFE
    assert (head.upsample.up_kernel, head.upsample.up_group, head.upsample.scale_factor) == (3, 2, 2)
    head = build("FCNMaskHead", upsample_cfg=dict(type="deconv", upsample_kernel=4))
    assert head.upsample.kernel_size == (4, 4)


@pytest.mark.parametrize("cfg", [dict(type="carefe"), dict(type="CARAFE", up_krenel=3)], ids=str)
def test_a_wrong_config_is_refused(cfg):
    with pytest.raises(UpsampleConfigError, match=cfg["type"]):
        build("FCNMaskHead", upsample_cfg=cfg)


def test_arguments_by_position_beyond_those_a_constructor_names():
    head = models.HTCMaskHead(True, 2, 14, 16)
    assert head.with_conv_res and len(head.convs) == 2 and head.in_channels == 16


def test_arguments_by_position_as_mmdet_takes_them():
    order = list(inspect.signature(mask_heads.FCNMaskHead).parameters)
    assert order[:8][-1] == "upsample_cfg"
    head = models.FCNMaskHead(1, 6, 8, 3, 8, 3, False, dict(type="CARAFE"))
    assert type(head.upsample) is CARAFE


@every_head
def test_the_registry_has_ours_and_mmdets_class_is_as_it_was(name):
    head = MODELS.build(dict(type=name, **SIZES, **HEADS[name], upsample_cfg=dict(type="CARAFE")))
    assert type(head) is getattr(models, name)
    parent = getattr(mask_heads, name)
    assert parent in type(head).__mro__
    assert parent.__module__.startswith("mmdet.")
    with pytest.raises(ValueError, match="Invalid upsample method"):
        parent(**SIZES, **HEADS[name], upsample_cfg=dict(type="CARAFE"))


@pytest.mark.parametrize("rescale", [False, True])
@every_head
def test_a_mask_beside_the_image_is_empty(name, rescale):
    """mmdet pastes on the CPU and fails there; what is beside others changes nothing for them."""
    size = dict(scale_factor=(2.0, 0.5), ori_shape=(20, 30))
    boxes = torch.tensor(
        [[2.0, 1, 40, 8], [70, 1, 90, 5], [-9, -9, -4, -4], [50, 4, 90, 20], [4, 12, 20, 30]]
    )
    beside = torch.tensor([False, True, True, False, True])
    logits, labels = torch.randn(5, 3, 12, 12), torch.tensor([0, 1, 2, 0, 1])

    def paste(head, chosen):
        given = boxes[chosen].clone()
        options = ConfigDict(mask_thr_binary=0.5)
        return head._predict_by_feat_single(
            logits[chosen], given, labels[chosen], size, options, rescale
        ), given

    masks, rescaled = paste(build(name), slice(None))
    expected, expected_boxes = paste(build(name, mask_heads), ~beside)
    assert torch.equal(masks[~beside], expected) and expected.any()
    assert torch.equal(rescaled[~beside], expected_boxes)
    assert not masks[beside].any()
    assert torch.equal(rescaled, boxes / torch.tensor([2, 0.5, 2, 0.5]) if rescale else boxes)
    with pytest.raises(RuntimeError):
        paste(build(name, mask_heads), beside)
