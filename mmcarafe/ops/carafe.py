# SPDX-License-Identifier: Apache-2.0
"""The public operator: checks, the ``torch.library`` ops behind it, their gradients and autocast rule.

Three ops make up the operator, each linear in both of its tensors::

    mmcarafe::carafe(features, masks)                  -> out
    mmcarafe::carafe_grad_features(grad, masks)        -> gradient of features
    mmcarafe::carafe_grad_masks(grad, features)        -> gradient of masks
    mmcarafe::carafe_backward(grad, features, masks)   -> both gradients

The gradient of any of them is made of the others, so derivatives of every order exist. The last is the two
before it in one, for kernels that compute both at once. The reference is their default kernel; a kernel
registered for a device replaces it there without touching a caller.
"""

from math import prod

import torch
from torch import Tensor
from torch.library import Library
from torch.utils.flop_counter import register_flop_formula

from . import reference
from .checks import check_arguments, check_masks, check_size
from .outputs import empty_carafe, empty_grad_features, empty_grad_masks
from .registering import closed_gradients, default_kernel, register, register_autocast, save, save_three

_ARGS = "int kernel_size, int group_size, int scale_factor"
_lib = Library("mmcarafe", "DEF")
_lib.define(f"carafe(Tensor features, Tensor masks, {_ARGS}) -> Tensor")
_lib.define(f"carafe_grad_features(Tensor grad, Tensor masks, {_ARGS}) -> Tensor")
_lib.define(f"carafe_grad_masks(Tensor grad, Tensor features, {_ARGS}) -> Tensor")
_lib.define(f"carafe_backward(Tensor grad, Tensor features, Tensor masks, {_ARGS}) -> (Tensor, Tensor)")


def carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Reassemble features: each output pixel is a weighted sum over its source pixel's k x k neighbourhood.

    Step 4 of CARAFE (Wang et al., ICCV 2019, arXiv 1905.02188, equation 4); the signature is that of
    ``mmcv.ops.carafe``. Pixels outside the map count as zero (whether a NaN or infinite weight on one of them
    spreads is not defined). Runs on any device, is differentiable any number of times, and follows autocast
    (both inputs are cast to its dtype, float64 excepted).

    Args:
        features (Tensor[N, C, H, W]): maps to upsample; float16, bfloat16, float32 or float64.
        masks (Tensor[N, group_size * kernel_size**2, scale_factor * H, scale_factor * W]): normalised
            reassembly kernels, one per output pixel and group; row-major over the neighbourhood.
        kernel_size (int): side k of the neighbourhood, odd.
        group_size (int): number of channel groups; the channels of a group share their kernels.
        scale_factor (int): how many times larger the output is, 1 or more.

    Returns:
        Tensor[N, C, scale_factor * H, scale_factor * W]: dtype and memory format of ``features``.

    Raises:
        TypeError: an argument is not a tensor or not an int, or the dtypes are not the same floating one.
        ValueError: a shape, device or number does not fit the others.

    Example:
        >>> import torch
        >>> from mmcarafe.ops import carafe
        >>> features = torch.rand(1, 16, 24, 24)
        >>> masks = torch.rand(1, 25, 48, 48).softmax(dim=1)
        >>> carafe(features, masks, kernel_size=5, group_size=1, scale_factor=2).shape
        torch.Size([1, 16, 48, 48])
    """
    sizes = dict(kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    check_arguments(features, masks, **sizes)
    N, C, H, W = features.shape
    target = scale_factor * H, scale_factor * W
    check_masks(features, masks, (N, group_size * kernel_size**2, *target), **sizes)
    check_size("output", N, C, *target, features.element_size())
    return torch.ops.mmcarafe.carafe.default(features, masks, kernel_size, group_size, scale_factor)


def _both_gradients(grad, features, masks, k, groups, scale):
    """Compute both gradients by the two ops that give one each, with whatever kernels these have."""
    ops = torch.ops.mmcarafe
    return (
        ops.carafe_grad_features.default(grad, masks, k, groups, scale),
        ops.carafe_grad_masks.default(grad, features, k, groups, scale),
    )


def _empty_backward(grad, features, masks, *args):
    return empty_grad_features(grad, masks, *args), empty_grad_masks(grad, features, *args)


DEFAULT_KERNELS = {
    "carafe": default_kernel(reference.carafe),
    "carafe_grad_features": default_kernel(reference.grad_features),
    "carafe_grad_masks": default_kernel(reference.grad_masks),
    "carafe_backward": _both_gradients,
}
FAKE_KERNELS = {
    "carafe": empty_carafe,
    "carafe_grad_features": empty_grad_features,
    "carafe_grad_masks": empty_grad_masks,
    "carafe_backward": _empty_backward,
}


def _gradients_of_backward(ctx, to_features, to_masks):
    """Differentiate ``carafe_backward``: its outputs are linear in (grad, masks) and in (grad, features)."""
    grad, features, masks = ctx.saved_tensors
    ops, args = torch.ops.mmcarafe, ctx.args
    d_grad = d_features = d_masks = None
    if ctx.needs_input_grad[0]:
        d_grad = ops.carafe(to_features, masks, *args) + ops.carafe(features, to_masks, *args)
    if ctx.needs_input_grad[1]:
        d_features = ops.carafe_grad_features(grad, to_masks, *args)
    if ctx.needs_input_grad[2]:
        d_masks = ops.carafe_grad_masks(grad, to_features, *args)
    return d_grad, d_features, d_masks, None, None, None


def _register() -> None:
    ops = torch.ops.mmcarafe
    both = ops.carafe_backward.default
    backward = {**closed_gradients("carafe", both), "carafe_backward": _gradients_of_backward}
    for name, kernel in DEFAULT_KERNELS.items():
        setup = save_three if name == "carafe_backward" else save
        register(_lib, name, kernel, FAKE_KERNELS[name], backward[name], setup)
    register_autocast(_lib, "carafe")
    # k*k multiply-adds for each channel of each output pixel, whichever of the ops it is
    register_flop_formula(ops.carafe)(lambda x, m, k, g, s, *args, **kwargs: 2 * k * k * prod(x) * s * s)
    for op in (ops.carafe_grad_features, ops.carafe_grad_masks):
        register_flop_formula(op)(lambda grad, t, k, g, s, *args, **kwargs: 2 * k * k * prod(grad))
    register_flop_formula(ops.carafe_backward)(
        lambda grad, x, m, k, g, s, *args, **kwargs: 4 * k * k * prod(grad)
    )


_register()
