# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels have in common; :mod:`.triton_kernels` explains the names."""

import triton
import triton.language as tl


@triton.jit
def wide(strides):
    """Widen strides to 64 bits."""
    s_n = tl.cast(strides[0], tl.int64)
    s_c = tl.cast(strides[1], tl.int64)
    s_h = tl.cast(strides[2], tl.int64)
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
def zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Make a tuple of COUNT tiles of float32 zeros."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.zeros([ROWS, COLUMNS], tl.float32),)
    return tiles


@triton.jit
def quarters(tile, BP: tl.constexpr, BC: tl.constexpr):
    """Take every fourth column of a tile, [BP, BC], from the first, second, third and fourth on."""
    even, odd = tl.split(tl.reshape(tile, [BP, BC // 4, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def in_kernel(ty, tx, K: tl.constexpr):
    """Tell whether a kernel has a tap ty rows and tx columns from its centre."""
    return (ty >= -(K // 2)) & (ty <= K // 2) & (tx >= -(K // 2)) & (tx <= K // 2)


@triton.jit
def weights(p_m, m_c, ok, ty, tx, K: tl.constexpr):
    """Load one tap of the kernels at some pixels, [BP]; zero where kernels do not reach as far."""
    p_tap = p_m + ((ty + K // 2) * K + tx + K // 2) * m_c
    return tl.load(p_tap, mask=ok & in_kernel(ty, tx, K), other=0.0).to(tl.float32)
