# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels have in common; :mod:`.triton_kernels` explains the names."""

import triton
import triton.language as tl


@triton.jit
def wide(strides, VEC: tl.constexpr):
    """Widen strides to 64 bits; all but the last are in units of ``VEC``, so that pairs are aligned."""
    s_n = tl.cast(strides[0], tl.int64) * VEC
    s_c = tl.cast(strides[1], tl.int64) * VEC
    s_h = tl.cast(strides[2], tl.int64) * VEC
    return s_n, s_c, s_h, tl.cast(strides[3], tl.int64)


@triton.jit
def pixels(pid, H, W, BP: tl.constexpr, PX: tl.constexpr, ROWS: tl.constexpr):
    """Find row (first of ROWS) and column of a program's source pixels, [BP] each, and the rest of pid."""
    PY: tl.constexpr = BP // PX
    blocks_x = tl.cdiv(W, PX)
    blocks_y = tl.cdiv(H, PY * ROWS)
    o_p = tl.arange(0, BP)
    x = pid % blocks_x * PX + o_p % PX
    y = (pid // blocks_x % blocks_y * PY + o_p // PX) * ROWS
    return y, x, pid // blocks_x // blocks_y


@triton.jit
def zeros(COUNT: tl.constexpr, C: tl.constexpr, P: tl.constexpr, C_AXIS: tl.constexpr):
    """Make a tuple of COUNT tiles of float32 zeros."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        if C_AXIS == 0:
            tiles = tiles + (tl.zeros([C, P], tl.float32),)
        else:
            tiles = tiles + (tl.zeros([P, C], tl.float32),)
    return tiles


@triton.jit
def pairs(pointers, stride):
    """Put each pointer and the one a stride further into a new last dimension."""
    return tl.expand_dims(pointers, -1) + tl.arange(0, 2) * stride


@triton.jit
def in_kernel(ty, tx, K: tl.constexpr):
    """Tell whether a kernel has a tap ty rows and tx columns from its centre."""
    return (ty >= -(K // 2)) & (ty <= K // 2) & (tx >= -(K // 2)) & (tx <= K // 2)


@triton.jit
def weights(p_m, m_c, ok, ty, tx, K: tl.constexpr):
    """Load one tap of the kernels at some pixels, [BP]; zero where kernels do not reach as far."""
    p_tap = p_m + ((ty + K // 2) * K + tx + K // 2) * m_c
    return tl.load(p_tap, mask=ok & in_kernel(ty, tx, K), other=0.0).to(tl.float32)
