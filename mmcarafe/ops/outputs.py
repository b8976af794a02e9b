# SPDX-License-Identifier: Apache-2.0
"""Uninitialised outputs of the ops: shape and memory layout, the same for every kernel and for tracing.

Each has the dtype and device of the first tensor, and its memory format where that is channels-last. The
arguments are those of the functions in :mod:`.reference`.
"""

import torch
from torch import Tensor


def memory_format(t: Tensor) -> torch.memory_format:
    """Return ``torch.channels_last`` if the tensor is that and not contiguous as well, else contiguous."""
    if not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _empty_as(first: Tensor, *size: int) -> Tensor:
    return torch.empty(size, dtype=first.dtype, device=first.device, memory_format=memory_format(first))


def empty_carafe(features: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Allocate the output, Tensor[N, C, s*H, s*W]."""
    N, C, H, W = features.shape
    return _empty_as(features, N, C, scale * H, scale * W)


def empty_grad_features(grad: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Allocate the gradient of the features, Tensor[N, C, H, W]."""
    N, C, H, W = grad.shape
    return _empty_as(grad, N, C, H // scale, W // scale)


def empty_grad_masks(grad: Tensor, features: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Allocate the gradient of the masks, Tensor[N, G*k*k, s*H, s*W]."""
    N, _, H, W = grad.shape
    return _empty_as(grad, N, groups * k * k, H, W)
