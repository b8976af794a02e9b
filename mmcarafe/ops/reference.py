# SPDX-License-Identifier: Apache-2.0
"""The definition of CARAFE's reassembly and of its two gradients, in plain PyTorch.

Any device, any floating dtype, differentiable; every kernel is tested against these functions. They work
at source resolution, one sub-pixel of the output at a time, so that each of the k*k terms is one
contiguous multiply-add, and block by block, so that a block stays in the processor's cache and scratch
memory does not grow with the input. Half precision is accumulated in float32.
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

# Elements of one block: 1.5 MB of float32, about a core's share of the cache.
_BLOCK = 384 * 1024


def acc_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that sums are formed in."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _pad(features: Tensor, radius: int, groups: int) -> Tensor:
    """Frame each map with zeros: [N, C, H, W] -> [N, G, C/G, H+2r, W+2r], in the accumulation dtype."""
    N, C, H, W = features.shape
    padded = features.new_zeros(N, C, H + 2 * radius, W + 2 * radius, dtype=acc_dtype(features.dtype))
    padded[..., radius : radius + H, radius : radius + W] = features
    return padded.unflatten(1, (groups, C // groups))


def _subpixels(t: Tensor, groups: int, scale: int) -> Tensor:
    """View [N, G*P, s*H, s*W] as [N, G, P, H, s, W, s]."""
    _, GP, sH, sW = t.shape
    t = t.unflatten(3, (sW // scale, scale)).unflatten(2, (sH // scale, scale))
    return t.unflatten(1, (groups, GP // groups))


def _blocks(N: int, C: int, H: int, W: int) -> Iterator[tuple[slice, int, int]]:
    """Cut the batch, or the rows of each image where one is already too large, into blocks (n, y, h)."""
    images = max(1, _BLOCK // max(1, C * H * W))
    rows = H if images > 1 else min(H, max(1, _BLOCK // max(1, C * W)))
    for n in range(0, N, images):
        for y in range(0, H, max(1, rows)):
            yield slice(n, n + images), y, min(rows, H - y)


def carafe(features: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Compute out[n,c,i,j] = sum over (dy,dx) of masks[n,G(c)*k*k+t,i,j] * features[n,c,i//s+dy,j//s+dx].

    Shapes are those of :func:`mmcarafe.ops.carafe`; arguments are not checked here.
    """
    N, C, H, W = features.shape
    x = _pad(features, k // 2, groups)
    m = _subpixels(masks, groups, scale)
    out = features.new_empty(N, C, H * scale, W * scale)  # no view, which autograd would not let be changed
    parts = _subpixels(out, groups, scale)
    for n, y, h in _blocks(N, C, H, W):
        for i, j in product(range(scale), repeat=2):
            m_ij = m[n, :, :, y : y + h, i, :, j].to(x.dtype).contiguous()  # [N, G, k*k, h, W]
            acc = x.new_zeros(())
            for t, (dy, dx) in enumerate(product(range(k), repeat=2)):
                window = x[n, ..., y + dy : y + dy + h, dx : dx + W]  # [N, G, C/G, h, W]
                acc = torch.addcmul(acc, window, m_ij[:, :, t, None])
            parts[n, :, :, y : y + h, i, :, j] = acc
    return out


def grad_features(grad: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Compute the gradient of ``features``: each output pixel's gradient goes back to its k*k source pixels.

    ``grad``: Tensor[N, C, s*H, s*W]; returns Tensor[N, C, H, W].
    """
    N, C, sH, sW = grad.shape
    H, W, r = sH // scale, sW // scale, k // 2
    dtype = acc_dtype(grad.dtype)
    g = _subpixels(grad, groups, scale)
    m = _subpixels(masks, groups, scale)
    x_grad = grad.new_zeros(N, groups, C // groups, H + 2 * r, W + 2 * r, dtype=dtype)
    for n, y, h in _blocks(N, C, H, W):
        for i, j in product(range(scale), repeat=2):
            g_ij = g[n, :, :, y : y + h, i, :, j].to(dtype).contiguous()  # [N, G, C/G, h, W]
            m_ij = m[n, :, :, y : y + h, i, :, j].to(dtype).contiguous()  # [N, G, k*k, h, W]
            for t, (dy, dx) in enumerate(product(range(k), repeat=2)):
                window = x_grad[n, ..., y + dy : y + dy + h, dx : dx + W]
                window.addcmul_(g_ij, m_ij[:, :, t, None])
    inner = x_grad[..., r : r + H, r : r + W].reshape(N, C, H, W)
    return torch.empty_like(inner, dtype=grad.dtype, memory_format=torch.contiguous_format).copy_(inner)


def grad_masks(grad: Tensor, features: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """Compute the gradient of ``masks``: output gradient times source pixel, summed over a group's channels.

    ``grad``: Tensor[N, C, s*H, s*W]; returns Tensor[N, G*k*k, s*H, s*W].
    """
    N, C, H, W = features.shape
    x = _pad(features, k // 2, groups)
    g = _subpixels(grad, groups, scale)
    m_grad = grad.new_empty(N, groups * k * k, H * scale, W * scale)
    parts = _subpixels(m_grad, groups, scale)
    for n, y, h in _blocks(N, C, H, W):
        for i, j in product(range(scale), repeat=2):
            g_ij = g[n, :, :, y : y + h, i, :, j].to(x.dtype).contiguous()  # [N, G, C/G, h, W]
            taps = [
                (g_ij * x[n, ..., y + dy : y + dy + h, dx : dx + W]).sum(2)
                for dy, dx in product(range(k), repeat=2)
            ]
            parts[n, :, :, y : y + h, i, :, j] = torch.stack(taps, 2).to(grad.dtype)
    return m_grad
