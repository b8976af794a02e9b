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

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.library import Library
from torch.utils.flop_counter import register_flop_formula

from . import reference
from .outputs import empty_carafe, empty_grad_features, empty_grad_masks, memory_format

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
    _check(features, masks, kernel_size, group_size, scale_factor)
    return torch.ops.mmcarafe.carafe.default(features, masks, kernel_size, group_size, scale_factor)


def _check(features: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> None:
    for name, value in (("features", features), ("masks", masks)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}")
        if value.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions [N, C, H, W], got {tuple(value.shape)}")
        if not value.is_floating_point():
            raise TypeError(f"{name}: expected a floating-point dtype, got {value.dtype}")
    for name, value in (("kernel_size", k), ("group_size", groups), ("scale_factor", scale)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")
    if k % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number, got {k}")
    N, C, H, W = features.shape
    if C % groups:
        raise ValueError(f"group_size: expected a divisor of the {C} channels, got {groups}")
    expected = (N, groups * k * k, scale * H, scale * W)
    if tuple(masks.shape) != expected:
        raise ValueError(
            f"masks: expected shape {expected} for features {tuple(features.shape)} with kernel_size={k}, "
            f"group_size={groups}, scale_factor={scale}, got {tuple(masks.shape)}"
        )
    # not while tracing, where sizes may be symbols: the bound would become a condition on them
    if not torch.compiler.is_compiling():
        _check_size(N, C, scale * H, scale * W, features.element_size())
    if features.device != masks.device:
        raise ValueError(f"masks: expected the features' device {features.device}, got {masks.device}")
    if features.dtype != masks.dtype and not torch.is_autocast_enabled(features.device.type):
        raise TypeError(f"masks: expected the features' dtype {features.dtype}, got {masks.dtype}")


def _check_size(N: int, C: int, H: int, W: int, element_size: int) -> None:
    # as torch computes strides, in which an empty dimension counts as one
    if prod(max(1, size) for size in (N, C, H, W)) * element_size > 2**63 - 1:
        raise ValueError(f"output: expected at most 2**63 - 1 bytes, got shape {(N, C, H, W)}")


def _default_kernel(function: Callable) -> Callable:
    """Return the reference as a kernel for every device, with outputs in the first tensor's memory format."""

    def kernel(first, second, k, groups, scale):
        out = function(first, second, k, groups, scale)
        return out.contiguous(memory_format=memory_format(first))

    return kernel


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
    "carafe": _default_kernel(reference.carafe),
    "carafe_grad_features": _default_kernel(reference.grad_features),
    "carafe_grad_masks": _default_kernel(reference.grad_masks),
    "carafe_backward": _both_gradients,
}
FAKE_KERNELS = {
    "carafe": empty_carafe,
    "carafe_grad_features": empty_grad_features,
    "carafe_grad_masks": empty_grad_masks,
    "carafe_backward": _empty_backward,
}


def _save(ctx, inputs, output):
    first, second, *ctx.args = inputs
    # the gradient of each tensor needs only the other one
    ctx.save_for_backward(
        first if ctx.needs_input_grad[1] else None, second if ctx.needs_input_grad[0] else None
    )


def _gradients(grad_first, grad_second, grad_both=None):
    """Make the backward of an op from those that give its first and second gradient, or both."""

    def backward(ctx, grad):
        first, second = ctx.saved_tensors
        if grad_both and all(ctx.needs_input_grad[:2]):
            return *grad_both(grad, first, second, *ctx.args), None, None, None
        d_first = grad_first(grad, second, ctx.args) if ctx.needs_input_grad[0] else None
        d_second = grad_second(grad, first, ctx.args) if ctx.needs_input_grad[1] else None
        return d_first, d_second, None, None, None

    return backward


def _save_three(ctx, inputs, output):
    *tensors, ctx.args = *inputs[:3], inputs[3:]
    ctx.save_for_backward(*tensors)


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


def _vmap(op):
    """Let the mapped dimension join the batch, since samples do not depend on one another."""

    def rule(info, in_dims, *inputs):
        *tensors, k, groups, scale = inputs
        tensors = [
            t.unsqueeze(0).expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip(tensors, in_dims[: len(tensors)], strict=True)
        ]
        out = op(*(t.flatten(0, 1) for t in tensors), k, groups, scale)
        sizes = tensors[0].shape[:2]
        if isinstance(out, Tensor):
            return out.unflatten(0, sizes), 0
        return tuple(t.unflatten(0, sizes) for t in out), (0,) * len(out)

    return rule


def _autocast(device: str, op):
    def kernel(features, masks, k, groups, scale):
        # as torch's own rules do, leave float64 alone
        wide = torch.float64 in (features.dtype, masks.dtype)
        dtype = torch.float64 if wide else torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return op(features.to(dtype), masks.to(dtype), k, groups, scale)

    return kernel


def _register() -> None:
    ops = torch.ops.mmcarafe
    forward = ops.carafe.default
    to_features = ops.carafe_grad_features.default
    to_masks = ops.carafe_grad_masks.default
    both = ops.carafe_backward.default
    # <op>(features, masks): features from (grad, masks), masks from (grad, features)
    backward = {
        "carafe": _gradients(lambda g, m, a: to_features(g, m, *a), lambda g, x, a: to_masks(g, x, *a), both),
        # first tensor is the output gradient: its gradient is the operator itself
        "carafe_grad_features": _gradients(
            lambda g, m, a: forward(g, m, *a), lambda g, y, a: to_masks(y, g, *a)
        ),
        "carafe_grad_masks": _gradients(
            lambda g, x, a: forward(x, g, *a), lambda g, y, a: to_features(y, g, *a)
        ),
        "carafe_backward": _gradients_of_backward,
    }
    for name, kernel in DEFAULT_KERNELS.items():
        qualified = f"mmcarafe::{name}"
        save = _save_three if name == "carafe_backward" else _save
        _lib.impl(name, kernel, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, FAKE_KERNELS[name], lib=_lib)
        torch.library.register_autograd(qualified, backward[name], setup_context=save, lib=_lib)
        torch.library.register_vmap(qualified, _vmap(getattr(ops, name).default), lib=_lib)
    for device in ("cpu", "cuda"):
        _lib.impl("carafe", _autocast(device, forward), f"Autocast{device.upper()}")
    # k*k multiply-adds for each channel of each output pixel, whichever of the ops it is
    register_flop_formula(ops.carafe)(lambda x, m, k, g, s, *args, **kwargs: 2 * k * k * prod(x) * s * s)
    for op in (ops.carafe_grad_features, ops.carafe_grad_masks):
        register_flop_formula(op)(lambda grad, t, k, g, s, *args, **kwargs: 2 * k * k * prod(grad))
    register_flop_formula(ops.carafe_backward)(
        lambda grad, x, m, k, g, s, *args, **kwargs: 4 * k * k * prod(grad)
    )


_register()
