# SPDX-License-Identifier: Apache-2.0
"""A small instance of every component that interpolates in its forward, and inputs for it."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from mmdet.models import backbones, dense_heads, layers, necks, seg_heads
from mmdet.models.roi_heads import mask_heads
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmcarafe import models

EVEN = ((16, 24), (8, 12), (4, 6), (2, 3))
ODD = ((25, 13), (13, 7), (7, 4), (4, 2))


def pyramid(channels, sizes=EVEN, batch=2, requires_grad=False) -> list[Tensor]:
    """Maps of these channels, finest first."""
    return [
        torch.randn(batch, c, *size, requires_grad=requires_grad)
        for c, size in zip(channels, sizes[: len(channels)], strict=True)
    ]


def arguments(module: nn.Module, maps) -> list:
    """What its ``forward`` takes, made of these maps."""
    maps = list(maps)
    height, width = (4 * size for size in maps[0].shape[2:])
    if isinstance(module, layers.PixelDecoder):
        return [maps, [dict(batch_input_shape=(height, width), img_shape=(height, width))] * len(maps[0])]
    if isinstance(module, necks.RFP):
        return [[maps[0].new_ones(len(maps[0]), 3, height, width), *maps]]
    if isinstance(module, necks.NASFPN):  # halves the coarsest twice
        return [[level[..., : level.shape[3] * 2 // 3].repeat(1, 1, 4, 4) for level in maps]]
    if isinstance(module, dense_heads.YOLACTProtonet):
        coefficients = torch.linspace(-1, 1, 2 * module.num_protos).view(2, -1)
        return [maps, [InstanceData(coeffs=coefficients)] * len(maps[0])]
    if isinstance(module, backbones.HRNet | backbones.HourglassNet):
        return [maps[0].repeat_interleave(4, 2).repeat_interleave(4, 3)]  # an image
    return [maps]


def call(module: nn.Module, maps) -> list[Tensor]:
    """Run it on maps and flatten what it returns."""
    return flatten(module(*arguments(module, maps)))


def flatten(outputs) -> list[Tensor]:
    """The tensors of nested tuples, lists and dicts."""
    if isinstance(outputs, Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, dict) else outputs or ()
    return [tensor for part in parts for tensor in flatten(part)]


class Component(NamedTuple):
    """How to build one, and what is known of mmdet's own."""

    package: object
    options: dict
    channels: list[int]
    """Of the inputs, finest first."""
    count: int
    """Upsamplers it has."""
    same: dict | None
    """The ``upsample_cfg`` that computes what mmdet's own does; None: mmdet mixes two kinds."""
    odd: bool = True
    """Whether mmdet's own takes levels of odd size."""
    part: Callable[[nn.Module], nn.Module] = lambda module: module
    """What of it upsamples."""
    where: str = ""
    """The argument that takes ``upsample_cfg``, if not the component."""

    def build(self, name: str, package=None, **upsample) -> nn.Module:
        """Ours (``package=mmcarafe.models``) or mmdet's, with ``upsample_cfg`` where it belongs."""
        options = ConfigDict(self.options)
        if upsample:
            (options[self.where] if self.where else options).update(upsample)
        return getattr(package or self.package, name)(**options)


NEAREST = dict(type="nearest")
BILINEAR = dict(type="bilinear")
BN = dict(type="BN")
CONV = dict(type="conv", kernel_size=1, inplace=False, order=("act", "conv", "norm"))
C = [4, 8, 12]
RTMDET = dict(
    num_classes=3,
    in_channels=8,
    stacked_convs=1,
    feat_channels=8,
    norm_cfg=BN,
    anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]),
    bbox_coder=dict(type="DistancePointBBoxCoder"),
    loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True),
    loss_bbox=dict(type="GIoULoss"),
    loss_mask=dict(type="DiceLoss"),
)
ENCODER_LAYER = dict(
    self_attn_cfg=dict(embed_dims=16, num_heads=2, num_levels=3, num_points=2, dropout=0.0, batch_first=True),
    ffn_cfg=dict(embed_dims=16, feedforward_channels=16, num_fcs=2),
)
DECODER = dict(feat_channels=16, out_channels=4, norm_cfg=dict(type="GN", num_groups=4))
POSITIONS = dict(num_feats=8, normalize=True)
MASK_FEATURES = dict(in_channels=8, feat_channels=8, start_level=0, end_level=2, out_channels=8)

CONDINST = Component(
    dense_heads,
    dict(mask_feature_head=dict(MASK_FEATURES), loss_mask=dict(type="DiceLoss")),
    [8] * 3,
    2,
    None,  # aligned_bilinear: other sample points
    odd=False,
    part=lambda head: head.mask_feature_head,
    where="mask_feature_head",
)
COMPONENTS = {
    "FPN": Component(necks, dict(in_channels=C, out_channels=4, num_outs=5), C, 2, NEAREST),
    "FPN_DropBlock": Component(necks, dict(in_channels=C, out_channels=4, num_outs=3), C, 2, NEAREST),
    "PAFPN": Component(necks, dict(in_channels=C, out_channels=4, num_outs=4), C, 2, NEAREST),
    "YOLOXPAFPN": Component(
        necks, dict(in_channels=C, out_channels=4, num_csp_blocks=1), C, 2, NEAREST, odd=False
    ),
    "CSPNeXtPAFPN": Component(
        necks, dict(in_channels=C, out_channels=4, num_csp_blocks=1), C, 2, NEAREST, odd=False
    ),
    "YOLOV3Neck": Component(
        necks,
        dict(num_scales=3, in_channels=C[::-1], out_channels=[12, 8, 4]),
        C,
        2,
        NEAREST,
        odd=False,
    ),
    "HRFPN": Component(
        necks, dict(in_channels=[4, 8, 12, 16], out_channels=4), [4, 8, 12, 16], 3, BILINEAR, odd=False
    ),
    "BFP": Component(
        necks, dict(in_channels=4, num_levels=4, refine_level=1, refine_type="conv"), [4] * 4, 3, NEAREST
    ),
    "NASFCOS_FPN": Component(
        necks,
        dict(in_channels=[4, 4, 8, 12], out_channels=8, num_outs=5, norm_cfg=BN, conv_cfg=None),
        [4, 4, 8, 12],
        5,
        None,
    ),
    "FPG": Component(
        necks,
        dict(
            in_channels=C,
            out_channels=4,
            inter_channels=8,
            num_outs=4,
            stack_times=2,
            paths=["bu", "bu"],
            same_up_trans=dict(CONV, kernel_size=3, stride=2, padding=1),
            across_lateral_trans=CONV,
            across_down_trans=dict(CONV, type="interpolation_conv", kernel_size=3),
            across_skip_trans=CONV,
            output_trans=dict(type="last_conv", kernel_size=3, order=("act", "conv", "norm"), inplace=False),
            skip_inds=[(0,), (), (), ()],
        ),
        C,
        5,
        NEAREST,
        odd=False,
    ),
    "PanopticFPNHead": Component(
        seg_heads,
        dict(
            num_things_classes=2,
            num_stuff_classes=3,
            in_channels=8,
            inner_channels=8,
            end_level=3,
            norm_cfg=dict(type="GN", num_groups=2),
        ),
        [8] * 3,
        3,
        BILINEAR,
        odd=False,
    ),
    "FusedSemanticHead": Component(
        mask_heads,
        dict(num_ins=4, fusion_level=1, num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3),
        [8] * 4,
        2,
        dict(type="bilinear", align_corners=True),
    ),
    "SCNetSemanticHead": Component(
        mask_heads,
        dict(num_ins=4, fusion_level=1, num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3),
        [8] * 4,
        2,
        dict(type="bilinear", align_corners=True),
    ),
    "PixelDecoder": Component(layers, dict(in_channels=C, **DECODER), C, 2, NEAREST),
    "TransformerEncoderPixelDecoder": Component(
        layers,
        dict(
            in_channels=C,
            encoder=dict(
                num_layers=1, layer_cfg=dict(ENCODER_LAYER, self_attn_cfg=dict(embed_dims=16, num_heads=2))
            ),
            positional_encoding=POSITIONS,
            **DECODER,
        ),
        C,
        2,
        NEAREST,
    ),
    "MSDeformAttnPixelDecoder": Component(
        layers,
        dict(
            in_channels=[4, *C],
            encoder=dict(num_layers=1, layer_cfg=ENCODER_LAYER),
            positional_encoding=POSITIONS,
            **DECODER,
        ),
        [4, *C],
        1,
        BILINEAR,
    ),
    "SOLOV2Head": Component(
        dense_heads,
        dict(
            num_classes=3,
            in_channels=8,
            num_grids=[4, 4, 4, 4, 4],
            mask_feature_head=dict(MASK_FEATURES, norm_cfg=dict(type="GN", num_groups=2)),
            loss_mask=dict(type="DiceLoss"),
            loss_cls=dict(type="FocalLoss", use_sigmoid=True),
        ),
        [8] * 3,
        3,
        BILINEAR,
        odd=False,
        part=lambda head: head.mask_feature_head,
        where="mask_feature_head",
    ),
    "BoxInstMaskHead": CONDINST,
    "CondInstMaskHead": CONDINST,
    "RFP": Component(
        necks,
        dict(
            in_channels=[16, 32, 64, 128],
            out_channels=4,
            num_outs=5,
            rfp_steps=2,
            aspp_out_channels=2,
            rfp_backbone=dict(type="DetectoRS_ResNet", depth=50, base_channels=4, rfp_inplanes=8),
        ),
        [16, 32, 64, 128],
        3,
        NEAREST,
    ),
    "NASFPN": Component(
        necks,
        dict(in_channels=C, out_channels=4, num_outs=5, stack_times=2, norm_cfg=BN),
        C,
        6,
        NEAREST,
        odd=False,
    ),
    "DyHead": Component(
        necks,
        dict(in_channels=16, out_channels=16, num_blocks=2),
        [16] * 3,
        2,
        dict(type="bilinear", align_corners=True),
    ),
    "CTResNetNeck": Component(
        necks,
        dict(in_channels=8, num_deconv_filters=(8, 4), num_deconv_kernels=(4, 4), use_dcn=False),
        [8],
        2,
        None,
        odd=False,
    ),
    "YOLACTProtonet": Component(
        dense_heads,
        dict(
            num_classes=3,
            in_channels=8,
            proto_channels=(4, None, 6),
            proto_kernel_sizes=(3, -2, 1),
            num_protos=6,
        ),
        [8],
        1,
        BILINEAR,
        odd=False,
    ),
    "HourglassNet": Component(
        backbones,
        dict(
            downsample_times=2,
            num_stacks=2,
            stage_channels=(8, 12, 16),
            stage_blocks=(1, 1, 1),
            feat_channel=8,
        ),
        [3],
        4,
        NEAREST,
    ),
    "HRNet": Component(
        backbones,
        dict(
            extra={
                f"stage{i}": dict(
                    num_modules=1,
                    num_branches=i,
                    block="BOTTLENECK" if i == 1 else "BASIC",
                    num_blocks=(1,) * i,
                    num_channels=(4,) if i == 1 else (4, 8, 12, 16)[:i],
                )
                for i in range(1, 5)
            },
            norm_eval=False,
        ),
        [3],
        10,
        NEAREST,
        odd=False,
    ),
    "RTMDetInsHead": Component(dense_heads, RTMDET, [8] * 3, 2, BILINEAR),
    "RTMDetInsSepBNHead": Component(dense_heads, RTMDET, [8] * 3, 2, BILINEAR),
}

every_component = pytest.mark.parametrize("name", COMPONENTS)


def build(name, package=models, **upsample):
    """The component and the part of it that upsamples, from the same random numbers."""
    torch.manual_seed(0)
    module = COMPONENTS[name].build(name, package, **upsample)
    return module, COMPONENTS[name].part(module)


def inputs(name, sizes=EVEN, **options):
    torch.manual_seed(1)
    return pyramid(COMPONENTS[name].channels, sizes, **options)


def run(name, module, sizes=EVEN):
    """Outputs, and gradients of the inputs."""
    maps = inputs(name, sizes, requires_grad=True)
    torch.manual_seed(2)
    outputs = call(module, maps)
    gradients = torch.autograd.grad(sum(o.square().sum() for o in outputs), maps, allow_unused=True)
    return outputs, gradients


def upsamplers(part):
    """All modules in any ``upsample_modules``; FPG has one list in each transition."""
    found = [m for owner in part.modules() for m in getattr(owner, "upsample_modules", ())]
    return list(dict.fromkeys(found))
