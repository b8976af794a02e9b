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
    r = k // 2
    N, H, W = (_size(features, axis) for axis in (0, 2, 3))
    frame = _ints(2 * r)
    x = op.Pad(features, _ints(0, 0, r, r, 0, 0, r, r))
    rows, columns = op.Add(H, frame), op.Add(W, frame)
    x = op.Reshape(x, op.Concat(N, _ints(1, g, -1), rows, columns, axis=0))  # [N, 1, g, C/g, H+2r, W+2r]
    m = op.SpaceToDepth(masks, blocksize=s) if s > 1 else masks
    m = op.Reshape(m, op.Concat(N, _ints(s * s, g, k * k), H, W, axis=0))  # [N, s*s, g, k*k, H, W]
    out = None
    for tap in range(k * k):
        dy, dx = divmod(tap, k)
        ends = op.Concat(op.Add(H, _ints(dy)), op.Add(W, _ints(dx)), axis=0)
        window = op.Slice(x, _ints(dy, dx), ends, _ints(4, 5))
        weights = op.Slice(m, _ints(tap), _ints(tap + 1), _ints(3))
        term = op.Mul(window, weights)  # [N, s*s, g, C/g, H, W]
        out = term if out is None else op.Add(out, term)
    out = op.Reshape(out, op.Concat(N, _ints(-1), H, W, axis=0))
    return op.DepthToSpace(out, blocksize=s, mode="DCR") if s > 1 else out


def translation_table() -> dict[Callable, Callable]:
    """Tell torch's ONNX exporter of the operator: ``custom_translation_table`` of ``torch.onnx.export``.

    Returns:
        dict: the operator and the function that writes it as ONNX.
    """
    return {torch.ops.mmcarafe.carafe.default: carafe}
