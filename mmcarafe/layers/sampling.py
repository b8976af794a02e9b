# SPDX-License-Identifier: Apache-2.0
"""Bilinear sampling at predicted offsets, for upsamplers that move points instead of weighing neighbours."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(x: Tensor, offset: Tensor, scale: int, groups: int) -> Tensor:
    """Sample ``scale**2`` points around each pixel, bilinearly; points outside the map get its border.

    Args:
        x (Tensor[N, C, H, W]): maps; the channels of a group are sampled at the same points.
        offset (Tensor[N, 2 * groups * scale**2, H, W]): from the pixel to each point, in pixels: all
            horizontal ones, then all vertical ones, each by group and row-major over the points. Coordinates
            are computed in float32 or better.
        scale (int): s.
        groups (int): a divisor of C.

    Returns:
        Tensor[N, C, s*H, s*W]: dtype of ``x``.
    """
    N, C, H, W = x.shape
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    dx, dy = offset.unflatten(1, (2, groups * scale**2)).unbind(1)  # [N, g*s*s, H, W]
    # grid_sample's coordinates: -1 is the left edge of the first pixel, 1 the right edge of the last
    grid_x = 2 * (dx + _centres(W, x)) / W - 1
    grid_y = 2 * (dy + _centres(H, x)[:, None]) / H - 1
    grid = torch.stack((grid_x, grid_y), -1).unflatten(1, (groups, scale, scale))
    grid = grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(N * groups, scale * H, scale * W, 2)
    maps = x.reshape(N * groups, C // groups, H, W).to(grid.dtype)
    out = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return out.reshape(N, C, scale * H, scale * W).to(x.dtype)


def _centres(size: int, x: Tensor) -> Tensor:
    """Return 0.5, 1.5, ... for the pixels of a row or column, Tensor[size], on the device of ``x``.

    From a cache, unless what is made now would be of no use outside: symbols and fake tensors while a program
    is traced, what a transform of ``torch.func`` wraps, memory that a CUDA graph fills when it is replayed.
    """
    in_jit = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    traced = torch.compiler.is_compiling() or in_jit or type(x) is not Tensor
    if traced or _in_transform() or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return _make_centres(size, x.device)
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    return _cached_centres(size, x.device, stream)


def _in_transform() -> bool:
    """Tell whether a transform of ``torch.func`` is active, which wraps what is made in it."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _make_centres(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, dtype=torch.float32, device=device) + 0.5


@lru_cache(maxsize=64)
def _cached_centres(size: int, device: torch.device, stream: int) -> Tensor:
    """Make them once for each CUDA stream: another may not have filled its own yet."""
    with torch.inference_mode(False):  # training may be the next to use it
        return _make_centres(size, device)
