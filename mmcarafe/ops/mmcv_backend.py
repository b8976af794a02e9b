# SPDX-License-Identifier: Apache-2.0
"""mmcv's CUDA kernels behind our ops, where mmcv was built for CUDA. They take contiguous float32 tensors.

What they cannot do was read in mmcv 2.1.0, ``mmcv/ops/csrc/common/cuda/carafe_cuda_kernel.cuh`` and
``mmcv/ops/csrc/pytorch/cuda/carafe_cuda.cu``: half precision is summed in half precision, so it is widened
here; float64 masks pass through float32, so float64 is refused; sizes are 32-bit, empty grids are launched,
and a block's share of the masks has to fit in 48 KB of shared memory.
"""

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .outputs import memory_format

MAX_LAUNCH_COUNT = 2**31 - 512  # of a C++ int; counts are rounded up to blocks of 512 threads
THREADS = 32  # for each pixel of the target, and for each element of the masks' gradient
MAX_MASK_CHANNELS = 384  # 48 KB of float32 for 32 pixels
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@cache
def _extension() -> Any:
    """Return mmcv's compiled module, or why there is none.

    It imports mmcv, and is called only where a CUDA tensor asks for it.
    """
    try:
        extension = import_module("mmcv._ext")
    except Exception as error:  # whatever an installation that does not fit raises, there are other kernels
        return f"mmcv's operators cannot be imported ({error!r})"
    if extension.get_compiling_cuda_version() == "not available":
        return "mmcv was built without CUDA"
    return extension


def why_not(op: str, tensors: tuple[Tensor, ...], k: int, groups: int, scale: int) -> str | None:
    """Say why mmcv cannot serve a call of an op; None if it can."""
    first = tensors[0]
    if first.dtype not in DTYPES:
        return f"{str(first.dtype)[6:]} would pass through float32"
    mask_channels = groups * k * k
    if mask_channels > MAX_MASK_CHANNELS:
        return f"{mask_channels} mask channels are more than {MAX_MASK_CHANNELS}"
    N, C, H, W = first.shape
    pixels = N * H * W * (scale * scale if op == "carafe" else 1)  # of the target
    backward_threads = 0 if op == "carafe" else pixels * mask_channels * THREADS
    if max(pixels * THREADS, pixels * C, pixels * mask_channels, backward_threads) > MAX_LAUNCH_COUNT:
        return f"{pixels} target pixels need numbers of more than 32 bits"
    if torch.version.hip:
        return "its ROCm build has not been tried"
    extension = _extension()
    if isinstance(extension, str):
        return extension
    return _not_started(first.device) if first.is_cuda else None


@cache
def _not_started(device: torch.device) -> str | None:
    """Say why mmcv's kernels do not run on a device, for which they may not have been compiled."""
    tiny = torch.ones(1, 1, 1, 1, device=device)
    try:
        carafe(tiny, tiny, 1, 1, 1)
    except RuntimeError as error:
        return f"mmcv's kernels do not run on this GPU ({str(error).strip().splitlines()[0]})"
    return None


def carafe(features: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Compute what :func:`mmcarafe.ops.reference.carafe` does."""
    N, C, H, W = features.shape
    x, m = (t.float().contiguous() for t in (features, masks))
    out = x.new_empty(N, C, scale * H, scale * W)
    _extension().carafe_forward(
        features=x,
        masks=m,
        rfeatures=_channels_inside(x),
        routput=_channels_inside(out),
        rmasks=_channels_inside(m),
        output=out,
        kernel_size=k,
        group_size=groups,
        scale_factor=scale,
    )
    return _as_first(out, features)


def backward(
    grad: Tensor, features: Tensor, masks: Tensor, k: int, groups: int, scale: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of features and masks, as :mod:`mmcarafe.ops.reference` has them one by one."""
    g, x, m = (t.float().contiguous() for t in (grad, features, masks))
    grad_x, grad_m = torch.empty_like(x), torch.empty_like(m)
    _extension().carafe_backward(
        top_grad=g,
        rfeatures=x.permute(0, 2, 3, 1).contiguous(),
        masks=m,
        rtop_grad=_channels_inside(g),
        rbottom_grad_hs=_channels_inside(g),
        rbottom_grad=_channels_inside(x),
        rmask_grad=_channels_inside(m),
        bottom_grad=grad_x,
        mask_grad=grad_m,
        kernel_size=k,
        group_size=groups,
        scale_factor=scale,
    )
    return _as_first(grad_x, grad), _as_first(grad_m, grad)


def grad_features(grad: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Compute what :func:`mmcarafe.ops.reference.grad_features` does; the kernel also reads features."""
    N, C, H, W = grad.shape
    return backward(grad, grad.new_zeros(N, C, H // scale, W // scale), masks, k, groups, scale)[0]


def grad_masks(grad: Tensor, features: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Compute what :func:`mmcarafe.ops.reference.grad_masks` does; the kernel also reads masks."""
    N, _, H, W = grad.shape
    return backward(grad, features, grad.new_zeros(N, groups * k * k, H, W), k, groups, scale)[1]


def _channels_inside(t: Tensor) -> Tensor:
    """Allocate scratch for a tensor [N, C, H, W] in the order in which the kernels work: [N, H, W, C]."""
    N, C, H, W = t.shape
    return t.new_empty(N, H, W, C)


def _as_first(t: Tensor, first: Tensor) -> Tensor:
    return t.to(first.dtype).contiguous(memory_format=memory_format(first))
