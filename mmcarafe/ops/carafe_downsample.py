# SPDX-License-Identifier: Apache-2.0
"""The downsampling operator: checks, definition, and the ``torch.library`` ops behind it.

As with :mod:`.carafe`, three ops are each linear in both of their tensors and each other's gradients::

    mmcarafe::carafe_downsample(features, masks)               -> out
    mmcarafe::carafe_downsample_grad_features(grad, masks)     -> gradient of features
    mmcarafe::carafe_downsample_grad_masks(grad, features)     -> gradient of masks

The sides of their features are multiples of the stride, to which the public function adds zeros.

Their default kernels are made of the upsampling ops at scale 1, and so run on the kernels that these have on
a device; CPU tensors and, through Triton, CUDA tensors have kernels of their own. Split by the remainders of
row and column over the stride, the features are stride**2 maps of the output's size, its phases; each tap of
a kernel is a pixel of one phase, at a fixed shift.
"""

from collections.abc import Iterator
from functools import reduce
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import Library
from torch.utils.flop_counter import register_flop_formula

from .checks import check_arguments, check_masks, check_size
from .outputs import empty_carafe, empty_grad_features, empty_grad_masks
from .reference import acc_dtype
from .registering import closed_gradients, default_kernel, register, register_autocast

_ARGS = "int kernel_size, int group_size, int stride"
_lib = Library("mmcarafe", "FRAGMENT")
_lib.define(f"carafe_downsample(Tensor features, Tensor masks, {_ARGS}) -> Tensor")
_lib.define(f"carafe_downsample_grad_features(Tensor grad, Tensor masks, {_ARGS}) -> Tensor")
_lib.define(f"carafe_downsample_grad_masks(Tensor grad, Tensor features, {_ARGS}) -> Tensor")


def carafe_downsample(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, stride: int
) -> Tensor:
    """Reassemble features at every stride-th pixel: each output pixel is a weighted sum over k x k pixels.

    Output pixel (i, j) is centred on source pixel (stride * i, stride * j). The downsampling of CARAFE++
    (Wang et al., arXiv 2012.04733). Otherwise as :func:`mmcarafe.ops.carafe`: pixels outside the map count as
    zero; any device; differentiable any number of times; follows autocast.

    Args:
        features (Tensor[N, C, H, W]): maps to downsample; float16, bfloat16, float32 or float64.
        masks (Tensor[N, group_size * kernel_size**2, ceil(H / stride), ceil(W / stride)]): normalised
            reassembly kernels, one per output pixel and group; row-major over the neighbourhood.
        kernel_size (int): side k of the neighbourhood, odd.
        group_size (int): number of channel groups; the channels of a group share their kernels.
        stride (int): how many source pixels lie between the centres of output pixels, 1 or more.

    Returns:
        Tensor[N, C, ceil(H / stride), ceil(W / stride)]: dtype and memory format of ``features``.

    Raises:
        TypeError: an argument is not a tensor or not an int, or the dtypes are not the same floating one.
        ValueError: a shape, device or number does not fit the others.

    Example:
        >>> import torch
        >>> from mmcarafe.ops import carafe_downsample
        >>> features = torch.rand(1, 16, 25, 24)
        >>> masks = torch.rand(1, 25, 13, 12).softmax(dim=1)
        >>> carafe_downsample(features, masks, kernel_size=5, group_size=1, stride=2).shape
        torch.Size([1, 16, 13, 12])
    """
    sizes = dict(kernel_size=kernel_size, group_size=group_size, stride=stride)
    check_arguments(features, masks, **sizes)
    N, C, H, W = features.shape
    # rounded up, and written as the size of a convolution's output, which symbols are compared with
    target = (H - 1) // stride + 1, (W - 1) // stride + 1
    check_masks(features, masks, (N, group_size * kernel_size**2, *target), **sizes)
    height, width = stride * target[0], stride * target[1]
    check_size("features with zeros up to the stride", N, C, height, width, features.element_size())
    if stride > 1:
        bottom, right = height - H, width - W
        # one program serves all sizes while tracing
        if torch.compiler.is_compiling() or bottom or right:
            features = F.pad(features, (0, right, 0, bottom))
    return torch.ops.mmcarafe.carafe_downsample.default(features, masks, kernel_size, group_size, stride)


def _phases(k: int, stride: int) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """Yield the phases: row, column, taps that lie in it, and their places in a kernel of :func:`_side`."""
    r, side = k // 2, _side(k, stride)
    for row, column in product(range(stride), repeat=2):
        taps = [
            (dy, dx)
            for dy, dx in product(range(-r, r + 1), repeat=2)
            if (dy % stride, dx % stride) == (row, column)
        ]
        if taps:
            places = [(dy // stride + side // 2) * side + dx // stride + side // 2 for dy, dx in taps]
            yield row, column, [(dy + r) * k + dx + r for dy, dx in taps], places


def _side(k: int, stride: int) -> int:
    """Return the side of the smallest kernel on a phase that holds its taps, odd."""
    return 2 * -(-(k // 2) // stride) + 1


def _kernels_of_phase(masks: Tensor, side: int, taps: list[int], places: list[int]) -> Tensor:
    """Lay out the taps of one phase: [N, G, k*k, H, W] -> [N, G*side*side, H, W], zero elsewhere."""
    N, G, _, H, W = masks.shape
    kernels = masks.new_zeros(N, G, side**2, H, W)
    kernels[:, :, places] = masks[:, :, taps]
    return kernels.flatten(1, 2)


def _forward(features: Tensor, masks: Tensor, k: int, groups: int, stride: int) -> Tensor:
    dtype, side = acc_dtype(features.dtype), _side(k, stride)
    masks = masks.to(dtype).unflatten(1, (groups, k * k))
    sums = (
        torch.ops.mmcarafe.carafe.default(
            features[:, :, row::stride, column::stride].to(dtype),
            _kernels_of_phase(masks, side, taps, places),
            side,
            groups,
            1,
        )
        for row, column, taps, places in _phases(k, stride)
    )
    return reduce(Tensor.add_, sums).to(features.dtype)


def _grad_features(grad: Tensor, masks: Tensor, k: int, groups: int, stride: int) -> Tensor:
    side = _side(k, stride)
    masks_by_tap = masks.unflatten(1, (groups, k * k))
    out = empty_carafe(grad, masks, k, groups, stride).zero_()
    for row, column, taps, places in _phases(k, stride):
        kernels = _kernels_of_phase(masks_by_tap, side, taps, places)
        phase = torch.ops.mmcarafe.carafe_grad_features.default(grad, kernels, side, groups, 1)
        out[:, :, row::stride, column::stride] = phase
    return out


def _grad_masks(grad: Tensor, features: Tensor, k: int, groups: int, stride: int) -> Tensor:
    side = _side(k, stride)
    out = empty_grad_masks(grad, features, k, groups, stride)
    by_tap = out.unflatten(1, (groups, k * k))
    for row, column, taps, places in _phases(k, stride):
        phase = features[:, :, row::stride, column::stride]
        kernels = torch.ops.mmcarafe.carafe_grad_masks.default(grad, phase, side, groups, 1)
        by_tap[:, :, taps] = kernels.unflatten(1, (groups, side**2))[:, :, places]
    return out


DOWNSAMPLE_KERNELS = {
    "carafe_downsample": default_kernel(_forward),
    "carafe_downsample_grad_features": default_kernel(_grad_features),
    "carafe_downsample_grad_masks": default_kernel(_grad_masks),
}
# what the upsampler's gradient makes smaller, and the upsampler larger
FAKE_KERNELS = {
    "carafe_downsample": empty_grad_features,
    "carafe_downsample_grad_features": empty_carafe,
    "carafe_downsample_grad_masks": empty_grad_masks,
}


def _register() -> None:
    for name, backward in closed_gradients("carafe_downsample").items():
        register(_lib, name, DOWNSAMPLE_KERNELS[name], FAKE_KERNELS[name], backward)
    register_autocast(_lib, "carafe_downsample")
    ops = torch.ops.mmcarafe
    # k*k multiply-adds for each channel of each output pixel, whichever of the ops it is
    register_flop_formula(ops.carafe_downsample)(
        lambda x, m, k, g, s, *args, out_shape, **kwargs: 2 * k * k * prod(out_shape)
    )
    for op in (ops.carafe_downsample_grad_features, ops.carafe_downsample_grad_masks):
        register_flop_formula(op)(lambda grad, t, k, g, s, *args, **kwargs: 2 * k * k * prod(grad))


_register()
