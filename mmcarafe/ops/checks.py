# SPDX-License-Identifier: Apache-2.0
"""What the public operators refuse, and in which words."""

from math import prod

import torch
from torch import Tensor


def check_arguments(features: Tensor, masks: Tensor, **sizes: int) -> None:
    """Raise TypeError or ValueError for tensors or sizes that an operator cannot take, whatever the shapes.

    ``sizes``: ``kernel_size``, ``group_size`` and the operator's own.
    """
    for name, value in (("features", features), ("masks", masks)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}")
        if value.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions [N, C, H, W], got {tuple(value.shape)}")
        if not value.is_floating_point():
            raise TypeError(f"{name}: expected a floating-point dtype, got {value.dtype}")
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")
    if sizes["kernel_size"] % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number, got {sizes['kernel_size']}")
    C = features.shape[1]
    if C % sizes["group_size"]:
        raise ValueError(f"group_size: expected a divisor of the {C} channels, got {sizes['group_size']}")


def check_masks(features: Tensor, masks: Tensor, expected: tuple[int, ...], **sizes: int) -> None:
    """Raise ValueError or TypeError unless the masks' shape, device and dtype go with the features."""
    if tuple(masks.shape) != expected:
        given = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise ValueError(
            f"masks: expected shape {expected} for features {tuple(features.shape)} with {given}, "
            f"got {tuple(masks.shape)}"
        )
    if features.device != masks.device:
        raise ValueError(f"masks: expected the features' device {features.device}, got {masks.device}")
    if features.dtype != masks.dtype and not torch.is_autocast_enabled(features.device.type):
        raise TypeError(f"masks: expected the features' dtype {features.dtype}, got {masks.dtype}")


def check_size(name: str, N: int, C: int, H: int, W: int, element_size: int) -> None:
    """Raise ValueError for a tensor that is too large for any memory."""
    # not while tracing, where sizes may be symbols: the bound would become a condition on them
    if torch.compiler.is_compiling():
        return
    # as torch computes strides, in which an empty dimension counts as one
    if prod(max(1, size) for size in (N, C, H, W)) * element_size > 2**63 - 1:
        raise ValueError(f"{name}: expected at most 2**63 - 1 bytes, got shape {(N, C, H, W)}")
