# SPDX-License-Identifier: Apache-2.0
"""The operator in ONNX, of standard operators only; needs onnxscript, which torch's exporter needs too.

Example::

    from mmcarafe.ops.onnx import translation_table

    torch.onnx.export(model, (x,), "model.onnx", dynamo=True, custom_translation_table=translation_table())
"""

from collections.abc import Callable

import torch
from onnxscript import opset18 as op


def _ints(*values: int):
    return op.Constant(value_ints=list(values))


def _size(t, axis: int):
    """Take one size of a tensor, as a tensor of one element: unknown until the model runs."""
    return op.Gather(op.Shape(t), _ints(axis))


def carafe(features, masks, kernel_size: int, group_size: int, scale_factor: int):
    """Write the operator as k*k shifted multiply-adds at source size, all sub-pixels at once.

    The largest tensor has the size of the output: nothing is unfolded. Sizes may be dynamic.

    Args:
        features: Tensor[N, C, H, W].
        masks: Tensor[N, group_size * kernel_size**2, scale_factor * H, scale_factor * W].
        kernel_size (int): k.
        group_size (int): g.
        scale_factor (int): s.

    Returns:
        Tensor[N, C, scale_factor * H, scale_factor * W].
    """
    k, g, s = kernel_size, group_size, scale_factor
    N, H, W = (_size(features, axis) for axis in (0, 2, 3))
    m = _by_source_pixel(masks, s, (g, k * k), (N, H, W))  # [N, s*s, g, k*k, H, W]
    return _at_target(_reassemble(_windows(features, k, g), m), s, (N, H, W))


def carafe_downsample(features, masks, kernel_size: int, group_size: int, stride: int):
    """Write the downsampling operator as k*k multiply-adds of strided slices.

    Args:
        features: Tensor[N, C, H, W], sides multiples of the stride.
        masks: Tensor[N, group_size * kernel_size**2, H / stride, W / stride].
        kernel_size (int): k.
        group_size (int): g.
        stride (int): s.

    Returns:
        Tensor[N, C, H / stride, W / stride].
    """
    k, g = kernel_size, group_size
    size = tuple(_size(masks, axis) for axis in (0, 2, 3))
    m = _by_source_pixel(masks, 1, (g, k * k), size)  # [N, 1, g, k*k, H/s, W/s]
    return _at_target(_reassemble(_windows(features, k, g, stride), m), 1, size)


def carafe_grad_masks(grad, features, kernel_size: int, group_size: int, scale_factor: int):
    """Write the gradient of the masks, which SAPA's similarity is, as k*k products with shifted maps.

    Args:
        grad: Tensor[N, C, scale_factor * H, scale_factor * W].
        features: Tensor[N, C, H, W].
        kernel_size (int): k.
        group_size (int): g.
        scale_factor (int): s.

    Returns:
        Tensor[N, group_size * kernel_size**2, scale_factor * H, scale_factor * W].
    """
    g, s = group_size, scale_factor
    N, H, W = (_size(features, axis) for axis in (0, 2, 3))
    d = _by_source_pixel(grad, s, (g, -1), (N, H, W))  # [N, s*s, g, C/g, H, W]
    products = [
        op.ReduceSum(op.Mul(window, d), _ints(3), keepdims=1) for window in _windows(features, kernel_size, g)
    ]
    return _at_target(op.Concat(*products, axis=3), s, (N, H, W))


def _reassemble(windows, m):
    """Sum the windows [N, 1, g, C/g, H, W], each times its weights of [N, S, g, k*k, H, W]."""
    out = None
    for tap, window in enumerate(windows):
        weights = op.Slice(m, _ints(tap), _ints(tap + 1), _ints(3))
        term = op.Mul(window, weights)  # [N, S, g, C/g, H, W]
        out = term if out is None else op.Add(out, term)
    return out


def _windows(features, k: int, g: int, stride: int = 1):
    """Yield the map [N, 1, g, C/g, H, W] shifted by each tap of a kernel, with zeros outside.

    Of a stride, every such row and column: [N, 1, g, C/g, H / stride, W / stride].
    """
    r = k // 2
    N, H, W = (_size(features, axis) for axis in (0, 2, 3))
    frame = _ints(2 * r)
    x = op.Pad(features, _ints(0, 0, r, r, 0, 0, r, r))
    x = op.Reshape(x, op.Concat(N, _ints(1, g, -1), op.Add(H, frame), op.Add(W, frame), axis=0))
    for tap in range(k * k):
        dy, dx = divmod(tap, k)
        ends = op.Concat(op.Add(H, _ints(dy)), op.Add(W, _ints(dx)), axis=0)
        steps = () if stride == 1 else (_ints(stride, stride),)
        yield op.Slice(x, _ints(dy, dx), ends, _ints(4, 5), *steps)


def _by_source_pixel(t, s: int, channels: tuple[int, int], size: tuple):
    """Put the s*s sub-pixels of Tensor[N, C, s*H, s*W] into a dimension: [N, s*s, *channels, H, W]."""
    N, H, W = size
    t = op.SpaceToDepth(t, blocksize=s) if s > 1 else t
    return op.Reshape(t, op.Concat(N, _ints(s * s, *channels), H, W, axis=0))


def _at_target(t, s: int, size: tuple):
    """Undo :func:`_by_source_pixel`: [N, s*s, g, C/g, H, W] -> [N, C, s*H, s*W]."""
    N, H, W = size
    t = op.Reshape(t, op.Concat(N, _ints(-1), H, W, axis=0))
    return op.DepthToSpace(t, blocksize=s, mode="DCR") if s > 1 else t


def translation_table() -> dict[Callable, Callable]:
    """Tell torch's ONNX exporter of the operators: ``custom_translation_table`` of ``torch.onnx.export``.

    Returns:
        dict: the operators and the functions that write them as ONNX.
    """
    ops = torch.ops.mmcarafe
    return {
        ops.carafe.default: carafe,
        ops.carafe_downsample.default: carafe_downsample,
        ops.carafe_grad_masks.default: carafe_grad_masks,
    }
