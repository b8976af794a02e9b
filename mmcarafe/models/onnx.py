# SPDX-License-Identifier: Apache-2.0
"""What mmdet's heads need, beside CARAFE, to be exported to ONNX; needs onnxscript.

mmcv's deformable convolution is a compiled function that torch.export cannot look into, so while a model is
exported it is replaced by an op that stands for it and becomes ONNX's DeformConv (opset 19).
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from onnxscript import opset19 as op
from torch import Tensor
from torch.nn.modules.utils import _pair

from mmcarafe.ops import onnx

# where mmcv and mmdet look the function up
_USERS = ("mmcv.ops.deform_conv", "mmdet.models.dense_heads.tood_head")


@torch.library.custom_op("mmcarafe::deform_conv2d", mutates_args=())
def _deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    from mmcv.ops.deform_conv import DeformConv2dFunction

    return DeformConv2dFunction.apply(
        x, offset, weight, tuple(stride), tuple(padding), tuple(dilation), groups, deform_groups
    )


@_deform_conv2d.register_fake
def _(x, offset, weight, stride, padding, dilation, groups, deform_groups):
    return x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])


def _as_op(x, offset, weight, stride=1, padding=0, dilation=1, groups=1, deform_groups=1, *unused):
    """mmcv's function as the op."""
    pairs = [list(_pair(value)) for value in (stride, padding, dilation)]
    return _deform_conv2d(x, offset, weight, *pairs, groups, deform_groups)


@contextmanager
def exportable() -> Iterator[None]:
    """While active, deformable convolutions are something that torch.export can put into a graph."""
    modules = [importlib.import_module(name) for name in _USERS]
    originals = [module.deform_conv2d for module in modules]
    try:
        for module in modules:
            module.deform_conv2d = _as_op
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.deform_conv2d = original


def _onnx_deform_conv2d(x, offset, weight, stride, padding, dilation, groups: int, deform_groups: int):
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
    """:func:`mmcarafe.ops.onnx.translation_table` and what mmdet's heads need besides."""
    return onnx.translation_table() | {torch.ops.mmcarafe.deform_conv2d.default: _onnx_deform_conv2d}
