# SPDX-License-Identifier: Apache-2.0
"""The public operator: checks, the ``torch.library`` ops behind it, their gradients and autocast rule.

Three ops make up the operator, each linear in both of its tensors::

    mmcarafe::carafe(features, masks)             -> out
    mmcarafe::carafe_grad_features(grad, masks)   -> gradient of features
    mmcarafe::carafe_grad_masks(grad, features)   -> gradient of masks

The gradient of any of them is made of the other two, so derivatives of every order exist. The reference
is their default kernel; a kernel registered for a device replaces it there without touching a caller.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.library import Library
from torch.utils.flop_counter import register_flop_formula

from . import reference

_ARGS = "int kernel_size, int group_size, int scale_factor"
_lib = Library("mmcarafe", "DEF")
_lib.define(f"carafe(Tensor features, Tensor masks, {_ARGS}) -> Tensor")
_lib.define(f"carafe_grad_features(Tensor grad, Tensor masks, {_ARGS}) -> Tensor")
_lib.define(f"carafe_grad_masks(Tensor grad, Tensor features, {_ARGS}) -> Tensor")


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
    if features.device != masks.device:
        raise ValueError(f"masks: expected the features' device {features.device}, got {masks.device}")
    if features.dtype != masks.dtype and not torch.is_autocast_enabled(features.device.type):
        raise TypeError(f"masks: expected the features' dtype {features.dtype}, got {masks.dtype}")


def _memory_format(t: Tensor) -> torch.memory_format:
    if not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _default_kernel(function: Callable) -> Callable:
    """The reference as a kernel for every device; its output takes the memory format of the first tensor."""

    def kernel(first, second, k, groups, scale):
        out = function(first, second, k, groups, scale)
        return out.contiguous(memory_format=_memory_format(first))

    return kernel


DEFAULT_KERNELS = {
    "carafe": _default_kernel(reference.carafe),
    "carafe_grad_features": _default_kernel(reference.grad_features),
    "carafe_grad_masks": _default_kernel(reference.grad_masks),
}


def _fake_carafe(features, masks, k, groups, scale):
    N, C, H, W = features.shape
    return features.new_empty(N, C, scale * H, scale * W).to(memory_format=_memory_format(features))


def _fake_grad_features(grad, masks, k, groups, scale):
    N, C, H, W = grad.shape
    out = grad.new_empty(N, C, H // scale, W // scale)
    return out.to(memory_format=_memory_format(grad))


def _fake_grad_masks(grad, features, k, groups, scale):
    N, _, H, W = grad.shape
    return grad.new_empty(N, groups * k * k, H, W).to(memory_format=_memory_format(grad))


def _save(ctx, inputs, output):
    first, second, *ctx.args = inputs
    # the gradient of each tensor needs only the other one
    ctx.save_for_backward(
        first if ctx.needs_input_grad[1] else None, second if ctx.needs_input_grad[0] else None
    )


def _gradients(grad_first, grad_second):
    """Backward of an op from the two ops that give the gradients of its first and second tensor."""

    def backward(ctx, grad):
        first, second = ctx.saved_tensors
        d_first = grad_first(grad, second, ctx.args) if ctx.needs_input_grad[0] else None
        d_second = grad_second(grad, first, ctx.args) if ctx.needs_input_grad[1] else None
        return d_first, d_second, None, None, None

    return backward


def _vmap(op):
    """Batching rule: the mapped dimension joins the batch, since samples do not depend on one another."""

    def rule(info, in_dims, first, second, k, groups, scale):
        first, second = (
            t.unsqueeze(0).expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip((first, second), in_dims[:2], strict=True)
        )
        out = op(first.flatten(0, 1), second.flatten(0, 1), k, groups, scale)
        return out.unflatten(0, first.shape[:2]), 0

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
    for name, kernel in DEFAULT_KERNELS.items():
        _lib.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake("mmcarafe::carafe", _fake_carafe, lib=_lib)
    torch.library.register_fake("mmcarafe::carafe_grad_features", _fake_grad_features, lib=_lib)
    torch.library.register_fake("mmcarafe::carafe_grad_masks", _fake_grad_masks, lib=_lib)
    # <op>(features, masks): features from (grad, masks), masks from (grad, features)
    for name, d_first, d_second in (
        ("carafe", lambda g, m, a: to_features(g, m, *a), lambda g, x, a: to_masks(g, x, *a)),
        # first tensor is the output gradient: its gradient is the operator itself
        (
            "carafe_grad_features",
            lambda g, m, a: forward(g, m, *a),
            lambda g, y, a: to_masks(y, g, *a),
        ),
        (
            "carafe_grad_masks",
            lambda g, x, a: forward(x, g, *a),
            lambda g, y, a: to_features(y, g, *a),
        ),
    ):
        torch.library.register_autograd(
            f"mmcarafe::{name}", _gradients(d_first, d_second), setup_context=_save, lib=_lib
        )
        torch.library.register_vmap(f"mmcarafe::{name}", _vmap(getattr(ops, name).default), lib=_lib)
    for device in ("cpu", "cuda"):
        _lib.impl("carafe", _autocast(device, forward), f"Autocast{device.upper()}")
    # k*k multiply-adds for each channel of each output pixel, whichever of the three ops it is
    register_flop_formula(ops.carafe)(lambda x, m, k, g, s, *args, **kwargs: 2 * k * k * prod(x) * s * s)
    for op in (ops.carafe_grad_features, ops.carafe_grad_masks):
        register_flop_formula(op)(lambda grad, t, k, g, s, *args, **kwargs: 2 * k * k * prod(grad))


_register()
