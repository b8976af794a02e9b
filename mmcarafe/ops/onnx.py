# SPDX-License-Identifier: Apache-2.0
"""The operator in ONNX, of standard operators only; needs onnxscript, which torch's exporter needs too.

Example::

    from mmcarafe.ops.onnx import translation_table

    torch.onnx.export(model, (x,), "model.onnx", dynamo=True, custom_translation_table=translation_table())
"""

from collections.abc import Callable

import torch
from onnxscript import opset18 as op

MIN_TILE = 4
"""Side of the tiles that are one matrix product each, in source pixels; large kernels have larger ones."""


def _ints(*values: int):
    return op.Constant(value_ints=list(values))


def _size(t, axis: int):
    """Take one size of a tensor, as a tensor of one element: unknown until the model runs."""
    return op.Gather(op.Shape(t), _ints(axis))


def carafe(features, masks, kernel_size: int, group_size: int, scale_factor: int):
    """Write the operator as one matrix product for each tile of source pixels.

    The columns of its weights are the tile's target pixels, its rows the source pixels that their kernels
    reach; where a kernel does not reach there are zeros. No tensor is larger than the output, four times
    the map or ``(2 * T / k)**2`` times the masks, T being the side of a tile. Sizes may be dynamic.

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
    tile = max(MIN_TILE, 2 * (k // 2))
    side = _ints(tile * s)  # of a tile at target size
    N, H, W = (_size(features, axis) for axis in (0, 2, 3))
    down, across = (op.Div(op.Add(size, _ints(tile - 1)), _ints(tile)) for size in (H, W))  # tiles
    target = [op.Mul(tiles, side) for tiles in (down, across)]
    windows = _tile_windows(features, k, g, tile, (N, H, W), (down, across))  # [N, tiles, g, C/g, 4*T*T]
    m = _tile_weights(masks, k, g, s, tile, N, (down, across), target)  # [N, tiles, g, 4*T*T, (s*T)**2]
    out = op.Reshape(op.MatMul(windows, m), op.Concat(N, down, across, _ints(-1), side, side, axis=0))
    out = op.Transpose(out, perm=[0, 3, 1, 4, 2, 5])
    out = op.Reshape(out, op.Concat(N, _ints(-1), *target, axis=0))
    ends = op.Mul(op.Concat(H, W, axis=0), _ints(s))
    return op.Slice(out, _ints(0, 0), ends, _ints(2, 3))


def _tile_windows(features, k: int, g: int, tile: int, size: tuple, tiles: tuple):
    """Lay out what each tile's kernels reach, a block of two by two tiles: [N, tiles, g, C/g, 4*T*T]."""
    (N, H, W), (down, across) = size, tiles
    r, side, one = k // 2, _ints(tile), _ints(1)
    blocks = [op.Add(count, one) for count in tiles]
    ends = [op.Sub(op.Mul(b, side), op.Add(x, _ints(r))) for b, x in zip(blocks, (H, W), strict=True)]
    x = op.Pad(features, op.Concat(_ints(0, 0, r, r, 0, 0), *ends, axis=0))
    x = op.Reshape(x, op.Concat(N, _ints(-1), blocks[0], side, blocks[1], side, axis=0))
    x = op.Transpose(x, perm=[0, 2, 4, 1, 3, 5])
    x = op.Reshape(x, op.Concat(N, *blocks, _ints(g, -1, tile * tile), axis=0))
    neighbours = [
        op.Slice(
            x,
            _ints(i, j),
            op.Concat(*(op.Add(c, _ints(d)) for c, d in ((down, i), (across, j))), axis=0),
            _ints(1, 2),
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
    x = op.Concat(*neighbours, axis=5)  # [N, down, across, g, C/g, 4*T*T]
    return op.Reshape(x, op.Concat(N, op.Mul(down, across), _ints(g, -1, 4 * tile * tile), axis=0))


def _tile_weights(masks, k: int, g: int, s: int, tile: int, N, tiles: tuple, target: list):
    """Lay out the weight of each source pixel for each target pixel: [N, tiles, g, 4*T*T, (s*T)**2]."""
    (down, across), side = tiles, tile * s
    missing = [op.Sub(size, _size(masks, axis)) for size, axis in zip(target, (2, 3), strict=True)]
    m = op.Pad(masks, op.Concat(_ints(0, 0, 0, 0, 0, 0), *missing, axis=0))
    m = op.Reshape(m, op.Concat(N, _ints(g * k * k), down, _ints(side), across, _ints(side), axis=0))
    m = op.Transpose(m, perm=[0, 1, 3, 5, 2, 4])
    count = op.Mul(down, across)
    m = op.Reshape(m, op.Concat(N, _ints(g, k * k * side**2), count, axis=0))
    m = op.Pad(m, _ints(0, 0, 0, 0, 0, 0, 1, 0))  # a row of zeros
    m = op.Gather(m, _ints(*_weight_rows(k, s, tile)), axis=2)
    m = op.Transpose(m, perm=[0, 3, 1, 2])
    return op.Reshape(m, op.Concat(N, count, _ints(g, 4 * tile * tile, side**2), axis=0))


def _weight_rows(k: int, s: int, tile: int) -> list[int]:
    """Return the row of (tap, target pixel) for each source and target pixel; the row after all is zeros.

    Source pixels are in the order of the tile and its neighbours to the right, below, and both.
    """
    side = tile * s
    tap = torch.arange(2 * tile)[:, None] - torch.arange(side) // s  # of a kernel of one dimension
    reached = (tap >= 0) & (tap < k)
    rows = (tap[:, None, :, None] * k + tap[:, None]) * side**2 + torch.arange(side**2).view(side, side)
    rows = rows.where(reached[:, None, :, None] & reached[:, None], k * k * side**2)
    return rows.view(2, tile, 2, tile, -1).transpose(1, 2).flatten().tolist()


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
