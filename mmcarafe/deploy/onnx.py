# SPDX-License-Identifier: Apache-2.0
"""What detectors need, beside CARAFE, to become ONNX of standard operators; needs onnxscript."""

from collections.abc import Callable

import torch
from onnxscript import opset19 as op

from mmcarafe.ops import onnx
from mmcarafe.ops.onnx import _ints, _size


def _nms_scores(boxes, scores, iou_threshold: float, most: int):
    selected = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, _ints(1)),  # one class: boxes of different labels do not overlap
        _ints(most),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),
    )  # [M, 3]: image, class, box
    index = op.Gather(selected, _ints(0, 2), axis=1)
    return op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), index, op.GatherND(scores, index))


def _roi_align_levels(maps, rois, levels, size, scales, sampling_ratio: int, aligned: bool):
    shape = op.Concat(_size(rois, 0), _size(maps[0], 1), _ints(*size), axis=0)
    out = op.Expand(op.Constant(value_float=0.0), shape)
    for level, (x, scale) in enumerate(zip(maps, scales, strict=True)):
        index = op.Transpose(
            op.NonZero(op.Equal(levels, op.Constant(value_int=level))), perm=[1, 0]
        )  # [M, 1]
        chosen = op.GatherND(rois, index)
        image = op.Cast(op.Squeeze(op.Slice(chosen, _ints(0), _ints(1), _ints(1)), _ints(1)), to=7)  # int64
        aligned_rois = op.RoiAlign(
            x,
            op.Slice(chosen, _ints(1), _ints(5), _ints(1)),
            image,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            mode="avg",
            output_height=size[0],
            output_width=size[1],
            sampling_ratio=sampling_ratio,
            spatial_scale=scale,
        )
        out = op.ScatterND(out, index, aligned_rois)
    return out


def _deform_conv2d(x, offset, weight, stride, padding, dilation, groups: int, deform_groups: int):
    return op.DeformConv(
        x,
        weight,
        offset,
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
        offset_group=deform_groups,
        kernel_shape=weight.shape[2:],
    )


def translation_table() -> dict[Callable, Callable]:
    """Return :func:`mmcarafe.ops.onnx.translation_table` and what mmdet's detectors need besides."""
    ops = torch.ops.mmcarafe
    return onnx.translation_table() | {
        ops.nms_scores.default: _nms_scores,
        ops.roi_align_levels.default: _roi_align_levels,
        ops.deform_conv2d.default: _deform_conv2d,
    }
