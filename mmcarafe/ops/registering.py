# SPDX-License-Identifier: Apache-2.0
"""What the ops share: how they are registered, with gradients and with rules of vmap and autocast.

Each takes two tensors, or three, and the sizes ``kernel_size``, ``group_size`` and a scale factor or stride,
and is linear in each tensor.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import Library

from .outputs import memory_format


def default_kernel(function: Callable) -> Callable:
    """Return the reference as a kernel for every device, with outputs in the first tensor's memory format."""

    def kernel(first, second, k, groups, scale):
        out = function(first, second, k, groups, scale)
        return out.contiguous(memory_format=memory_format(first))

    return kernel


def save(ctx, inputs, output):
    """Keep what the gradients that are asked for need."""
    first, second, *ctx.args = inputs
    # the gradient of each tensor needs only the other one
    ctx.save_for_backward(
        first if ctx.needs_input_grad[1] else None, second if ctx.needs_input_grad[0] else None
    )


def save_three(ctx, inputs, output):
    """Keep the three tensors of an op that gives both gradients."""
    *tensors, ctx.args = *inputs[:3], inputs[3:]
    ctx.save_for_backward(*tensors)


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


def closed_gradients(name: str, both: Callable | None = None) -> dict[str, Callable]:
    """Make the backward of an operator and of the two ops that give its gradients, each of the others.

    Args:
        name (str): of the operator, op(features, masks); its gradients are ``NAME_grad_features`` (grad,
            masks) and ``NAME_grad_masks`` (grad, features).
        both (callable, optional): op(grad, features, masks) that gives both gradients of the operator.

    Returns:
        dict: the three names and what ``torch.library.register_autograd`` takes.
    """
    ops = torch.ops.mmcarafe
    forward, to_features, to_masks = (
        getattr(ops, f"{name}{suffix}").default for suffix in ("", "_grad_features", "_grad_masks")
    )
    return {
        name: _gradients(lambda g, m, a: to_features(g, m, *a), lambda g, x, a: to_masks(g, x, *a), both),
        # first tensor is the output gradient: its gradient is the operator itself
        f"{name}_grad_features": _gradients(
            lambda g, m, a: forward(g, m, *a), lambda g, y, a: to_masks(y, g, *a)
        ),
        f"{name}_grad_masks": _gradients(
            lambda g, x, a: forward(x, g, *a), lambda g, y, a: to_features(y, g, *a)
        ),
    }


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


def register(lib: Library, name: str, kernel, fake, backward, setup_context=save) -> None:
    """Register the kernel of every device, the fake one, the gradient and the vmap rule of an op."""
    qualified, op = f"mmcarafe::{name}", getattr(torch.ops.mmcarafe, name).default
    lib.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=lib)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=lib)
    torch.library.register_vmap(qualified, _vmap(op), lib=lib)


def register_autocast(lib: Library, name: str) -> None:
    """Let an operator run in autocast's dtype."""
    op = getattr(torch.ops.mmcarafe, name).default
    for device in ("cpu", "cuda"):
        lib.impl(name, _autocast(device, op), f"Autocast{device.upper()}")


def _autocast(device: str, op):
    def kernel(features, masks, k, groups, scale):
        # as torch's own rules do, leave float64 alone
        wide = torch.float64 in (features.dtype, masks.dtype)
        dtype = torch.float64 if wide else torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return op(features.to(dtype), masks.to(dtype), k, groups, scale)

    return kernel
