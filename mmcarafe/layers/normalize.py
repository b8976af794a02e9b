# SPDX-License-Identifier: Apache-2.0
"""The kernel normaliser: a softmax over the taps of each kernel (paper, section 3.2)."""

import torch
from torch import Tensor


def normalize_kernels(logits: Tensor, groups: int) -> Tensor:
    """Turn the raw output of an encoder into reassembly kernels, whose k*k weights sum to 1.

    Args:
        logits (Tensor[N, groups * k * k, H, W]): the kernel of each pixel and group, row-major.
        groups (int): number of channel groups.

    Returns:
        Tensor[N, groups * k * k, H, W]: channels last where ``logits`` are, otherwise contiguous.
    """
    last = not torch.compiler.is_compiling() and logits.is_contiguous(memory_format=torch.channels_last)
    if not last or logits.is_contiguous():
        return logits.unflatten(1, (groups, -1)).softmax(dim=2).flatten(1, 2)
    # where torch's softmax would copy the logits, and the operator its result once more
    return logits.permute(0, 2, 3, 1).unflatten(3, (groups, -1)).softmax(dim=4).flatten(3).permute(0, 3, 1, 2)
