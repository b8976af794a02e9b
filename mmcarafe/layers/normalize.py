# SPDX-License-Identifier: Apache-2.0
"""The kernel normaliser: a softmax over the taps of each kernel (paper, section 3.2)."""

import torch
from torch import Tensor


def is_channels_last(t: Tensor) -> bool:
    """Tell whether a tensor is channels last, and not contiguous as well.

    By its strides: ``is_contiguous(memory_format=...)`` is not answered under ``torch.func.vmap``.
    """
    _, C, H, W = t.shape
    strides = zip(t.shape, t.stride(), (H * W * C, 1, W * C, C), strict=True)
    return not t.is_contiguous() and all(given == expected for n, given, expected in strides if n > 1)


def normalize_kernels(logits: Tensor, groups: int) -> Tensor:
    """Turn the raw output of an encoder into reassembly kernels, whose k*k weights sum to 1.

    Args:
        logits (Tensor[N, groups * k * k, H, W]): the kernel of each pixel and group, row-major.
        groups (int): number of channel groups.

    Returns:
        Tensor[N, groups * k * k, H, W]: channels last where ``logits`` are, otherwise contiguous.
    """
    if torch.compiler.is_compiling() or not is_channels_last(logits):
        return logits.unflatten(1, (groups, -1)).softmax(dim=2).flatten(1, 2)
    # where torch's softmax would copy the logits, and the operator its result once more
    return logits.permute(0, 2, 3, 1).unflatten(3, (groups, -1)).softmax(dim=4).flatten(3).permute(0, 3, 1, 2)
