# SPDX-License-Identifier: Apache-2.0
"""The operator and its gradients as products of small matrices, for tensor cores.

A program takes ``BC`` channels of a tile of ``ROWS`` x ``X`` source pixels. Kernels of neighbours overlap, so
a tile reaches few columns: at most 2 ``X`` of the source. For each row that it reaches, a program multiplies
that row, [BC, columns], by a matrix that holds the masks where a kernel reaches a column and zeros elsewhere,
[columns, pixels]. Most products are with zeros, and still these units are faster.

float32 is split into two numbers of TF32's 11 bits, and three of their four products are summed; what remains
is of float32's own error.

A zero times infinity is NaN, which would spread to pixels that a kernel does not reach, and what TF32 leaves
of infinity is NaN. So a program whose sums are not all finite sums its tile anew, product by product.

Names are those of :mod:`.triton_kernels`. The width and strides but the last come in units of ``A``, so that
the compiler knows what they are multiples of; offsets inside a tile are in 32 bits. ``WIDEN`` is for Triton's
interpreter, which multiplies bfloat16 as if it were integers.
"""

import triton
import triton.language as tl

from .triton_dot_parts import any_spoilt, multiples, multiply, place, reaches, start


@triton.jit
def carafe_dot_kernel(
    features_ptr, features_strides, masks_ptr, masks_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, A: tl.constexpr, PAIRS: tl.constexpr,
    ROWS: tl.constexpr, X: tl.constexpr, BC: tl.constexpr, STAGES: tl.constexpr,
    PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Compute what ``carafe_kernel`` does for upsampling: the rows are of the features."""
    R: tl.constexpr = K // 2
    COLUMNS: tl.constexpr = 2 * X
    LEFT: tl.constexpr = X // 2
    SX: tl.constexpr = S * X
    PIXELS: tl.constexpr = ROWS * S * SX
    x_n, x_c, x_h, x_w = multiples(features_strides, A)
    m_n, m_c, m_h, m_w = multiples(masks_strides, A)
    out_n, out_c, out_h, out_w = multiples(out_strides, A)
    W = W * A
    pid = tl.program_id(0)
    blocks_c = tl.cdiv(CPG, BC)
    i_c = pid % blocks_c
    y, x, pid = place(pid // blocks_c, H, W, ROWS, X)
    i_g = pid % G
    i_n = pid // G

    o_c = tl.arange(0, BC)
    ok_c = (i_c * BC + o_c < CPG)[:, None]
    c = i_g * CPG + i_c * BC
    column = tl.arange(0, COLUMNS)
    col = x - LEFT + column
    ok_x = (col >= 0) & (col < W)
    p_x = start(features_ptr, i_n, c, y, x, x_n, x_c, x_h, x_w)
    p_m = start(masks_ptr, i_n, i_g * K * K, y * S, x * S, m_n, m_c, m_h, m_w)
    o_x = o_c[:, None] * x_c + (column - LEFT)[None, :] * x_w
    t = tl.arange(0, PIXELS)[None, :]
    tx = t % SX // S
    r = t // (SX * S)
    dx = column[:, None] - LEFT - tx
    o_m = (dx + R - r * K) * m_c + t // SX * m_h + t % SX * m_w
    ok_m = (dx >= -R) & (dx <= R) & (y + r < H) & (x + tx < W) & (x + tx + dx >= 0) & (x + tx + dx < W)
    if S == 2 and PAIRS:  # the compiler does not see that sub-pixels of a row are adjacent
        o_m = tl.multiple_of(tl.max_contiguous(o_m, [1, 2]), [1, 2])
        ok_m = tl.max_constancy(ok_m, [1, 2])

    acc = tl.zeros([BC, PIXELS], tl.float32)
    for d in tl.range(-R, ROWS + R, num_stages=STAGES):
        ok_y = (y + d >= 0) & (y + d < H)
        b_x = tl.load(p_x + d * x_h + o_x, mask=ok_c & ok_x[None, :] & ok_y, other=0.0)
        ok_d = ok_m & (d - r <= R) & (r - d <= R) & ok_y
        b_m = tl.load(p_m + (d + R) * K * m_c + o_m, mask=ok_d, other=0.0)
        acc = multiply(b_x, b_m, acc, PRECISION, WIDEN)
    t = tl.arange(0, PIXELS)
    tx_z = t % SX // S
    r_z = t // (SX * S)
    if any_spoilt(acc):
        acc = tl.zeros([BC, PIXELS], tl.float32)
        for z in range(COLUMNS * (ROWS + 2 * R)):
            b = z % COLUMNS
            d = z // COLUMNS - R
            e = x - LEFT + b
            ok_z = (y + d >= 0) & (y + d < H) & (e >= 0) & (e < W)
            p_z = p_x + d * x_h + (b - LEFT) * x_w + o_c[:, None] * x_c
            one_x = tl.load(p_z, mask=ok_c & ok_z, other=0.0).to(tl.float32)
            tap = b - LEFT - tx_z
            ok_z_m = ok_z & reaches(tap, R) & reaches(d - r_z, R) & (y + r_z < H) & (x + tx_z < W)
            p_z = p_m + ((d - r_z + R) * K + tap + R) * m_c + t // SX * m_h + t % SX * m_w
            one_m = tl.load(p_z, mask=ok_z_m, other=0.0).to(tl.float32)
            acc += tl.where(ok_z_m[None, :], one_x * one_m[None, :], 0.0)
    p_out = start(out_ptr, i_n, c, y * S, x * S, out_n, out_c, out_h, out_w)
    o_out = o_c[:, None] * out_c + (t // SX * out_h + t % SX * out_w)[None, :]
    ok_o = ok_c & ((y * S + t // SX < H * S) & (x * S + t % SX < W * S))[None, :]
    tl.store(p_out + o_out, acc.to(out_ptr.dtype.element_ty), mask=ok_o)


@triton.jit
def grad_features_dot_kernel(
    grad_ptr, grad_strides, masks_ptr, masks_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, A: tl.constexpr, ROWS: tl.constexpr, X: tl.constexpr,
    BC: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Compute what ``grad_features_kernel`` does for upsampling: the rows are of the output's gradient."""
    R: tl.constexpr = K // 2
    COLUMNS: tl.constexpr = 2 * X * S
    LEFT: tl.constexpr = X // 2
    PIXELS: tl.constexpr = ROWS * X
    g_n, g_c, g_h, g_w = multiples(grad_strides, A)
    m_n, m_c, m_h, m_w = multiples(masks_strides, A)
    out_n, out_c, out_h, out_w = multiples(out_strides, A)
    W = W * A
    pid = tl.program_id(0)
    blocks_c = tl.cdiv(CPG, BC)
    i_c = pid % blocks_c
    y, x, pid = place(pid // blocks_c, H, W, ROWS, X)
    i_g = pid % G
    i_n = pid // G

    o_c = tl.arange(0, BC)
    ok_c = (i_c * BC + o_c < CPG)[:, None]
    c = i_g * CPG + i_c * BC
    column = tl.arange(0, COLUMNS)
    col = (x - LEFT) * S + column
    ok_x = (col >= 0) & (col < W * S)
    p_g = start(grad_ptr, i_n, c, y * S, x * S, g_n, g_c, g_h, g_w)
    p_m = start(masks_ptr, i_n, i_g * K * K, y * S, x * S, m_n, m_c, m_h, m_w)
    o_g = o_c[:, None] * g_c + (column - LEFT * S)[None, :] * g_w
    t = tl.arange(0, PIXELS)
    tx = t % X
    r = t // X
    sx = column[:, None] // S - LEFT
    dx = tx[None, :] - sx
    o_m = (r[None, :] * K + dx + R) * m_c + (column[:, None] - LEFT * S) * m_w
    ok_m = (
        (dx >= -R) & (dx <= R) & (y + r < H)[None, :] & (x + tx < W)[None, :] & (x + sx >= 0) & (x + sx < W)
    )
    acc = tl.zeros([BC, PIXELS], tl.float32)
    for a in tl.range(-R * S, (ROWS + R) * S, num_stages=STAGES):
        d = (a + R * S) // S - R
        ok_y = (y + d >= 0) & (y + d < H)
        b_g = tl.load(p_g + a * g_h + o_g, mask=ok_c & ok_x[None, :] & ok_y, other=0.0)
        ok_d = ok_m & (d - r <= R)[None, :] & (r - d <= R)[None, :] & ok_y
        b_m = tl.load(p_m + ((R - d) * K * m_c + a * m_h) + o_m, mask=ok_d, other=0.0)
        acc = multiply(b_g, b_m, acc, PRECISION, WIDEN)
    if any_spoilt(acc):
        acc = tl.zeros([BC, PIXELS], tl.float32)
        for z in range(COLUMNS * (ROWS + 2 * R) * S):
            b = z % COLUMNS
            a = z // COLUMNS - R * S
            d = (a + R * S) // S - R
            e = b // S - LEFT
            ok_z = (y + d >= 0) & (y + d < H) & (x + e >= 0) & (x + e < W)
            p_z = p_g + a * g_h + (b - LEFT * S) * g_w + o_c[:, None] * g_c
            one_g = tl.load(p_z, mask=ok_c & ok_z, other=0.0).to(tl.float32)
            tap = tx - e
            ok_z_m = ok_z & reaches(tap, R) & reaches(d - r, R) & (y + r < H) & (x + tx < W)
            p_z = p_m + ((r - d + R) * K + tap + R) * m_c + a * m_h + (b - LEFT * S) * m_w
            one_m = tl.load(p_z, mask=ok_z_m, other=0.0).to(tl.float32)
            acc += tl.where(ok_z_m[None, :], one_g * one_m[None, :], 0.0)
    p_out = start(out_ptr, i_n, c, y, x, out_n, out_c, out_h, out_w)
    o_out = o_c[:, None] * out_c + (r * out_h + tx * out_w)[None, :]
    ok_o = ok_c & ((y + r < H) & (x + tx < W))[None, :]
    tl.store(p_out + o_out, acc.to(out_ptr.dtype.element_ty), mask=ok_o)


@triton.jit
def grad_masks_dot_kernel(
    grad_ptr, grad_strides, features_ptr, features_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, A: tl.constexpr, ROWS: tl.constexpr, X: tl.constexpr,
    BC: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Compute what ``grad_masks_kernel`` does for upsampling.

    A program multiplies the gradients of its pixels, [pixels, BC], by each row of features that they reach,
    [BC, 2 * X], over all channels of a group. Of the products' sums it writes those of the taps.
    """
    R: tl.constexpr = K // 2
    COLUMNS: tl.constexpr = 2 * X
    LEFT: tl.constexpr = X // 2
    SX: tl.constexpr = S * X
    PIXELS: tl.constexpr = ROWS * S * SX
    REACHED: tl.constexpr = ROWS + 2 * R
    g_n, g_c, g_h, g_w = multiples(grad_strides, A)
    x_n, x_c, x_h, x_w = multiples(features_strides, A)
    out_n, out_c, out_h, out_w = multiples(out_strides, A)
    W = W * A
    y, x, pid = place(tl.program_id(0), H, W, ROWS, X)
    i_g = pid % G
    i_n = pid // G
    o_c = tl.arange(0, BC)
    t = tl.arange(0, PIXELS)
    tx = t % SX // S
    r = t // (SX * S)
    column = tl.arange(0, COLUMNS)
    col = x - LEFT + column
    ok_x = (col >= 0) & (col < W)
    ok_t = (y * S + t // SX < H * S) & (x * S + t % SX < W * S)
    p_g = start(grad_ptr, i_n, i_g * CPG, y * S, x * S, g_n, g_c, g_h, g_w)
    p_x = start(features_ptr, i_n, i_g * CPG, y, x, x_n, x_c, x_h, x_w)
    o_g = o_c[None, :] * g_c + (t // SX * g_h + t % SX * g_w)[:, None]
    o_x = o_c[:, None] * x_c + (column - LEFT)[None, :] * x_w
    acc = ()
    for _ in tl.static_range(REACHED):
        acc = acc + (tl.zeros([PIXELS, COLUMNS], tl.float32),)
    for c in tl.range(0, CPG, BC, num_stages=STAGES):
        ok_c = c + o_c < CPG
        b_g = tl.load(p_g + o_g, mask=ok_t[:, None] & ok_c[None, :], other=0.0)
        new = ()
        for a in tl.static_range(REACHED):
            ok_y = (y + a - R >= 0) & (y + a - R < H)
            ok = ok_c[:, None] & ok_x[None, :] & ok_y
            b_x = tl.load(p_x + (a - R) * x_h + o_x, mask=ok, other=0.0)
            new = new + (multiply(b_g, b_x, acc[a], PRECISION, WIDEN),)
        acc = new
        p_g += BC * g_c
        p_x += BC * x_c
    dx = column[None, :] - LEFT - tx[:, None]
    ok = (dx >= -R) & (dx <= R) & ok_t[:, None]
    p_out = start(out_ptr, i_n, i_g * K * K, y * S, x * S, out_n, out_c, out_h, out_w)
    o_out = (dx + R - r[:, None] * K) * out_c + (t // SX * out_h + t % SX * out_w)[:, None]
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    spoilt = False
    for a in tl.static_range(REACHED):
        ok_a = ok & ((a - R - r <= R) & (r - a + R <= R))[:, None]
        tl.store(p_out + a * K * out_c + o_out, acc[a].to(dtype), mask=ok_a)
        if PRECISION == "tf32":
            spoilt = spoilt | any_spoilt(acc[a])
    if spoilt:  # of infinity TF32 leaves NaN
        tl.debug_barrier()  # what was stored is stored over, maybe by other threads
        p_g -= tl.cdiv(CPG, BC) * BC * tl.cast(g_c, tl.int64)
        p_x -= tl.cdiv(CPG, BC) * BC * tl.cast(x_c, tl.int64)
        for z in range(REACHED):
            total = tl.zeros([PIXELS, COLUMNS], tl.float32)
            ok_z = ok_x & (y + z - R >= 0) & (y + z - R < H)
            for c in tl.range(CPG, loop_unroll_factor=1):
                p_c = p_g + tl.cast(c, tl.int64) * g_c
                one_g = tl.load(p_c + t // SX * g_h + t % SX * g_w, mask=ok_t, other=0.0)
                p_c = p_x + tl.cast(c, tl.int64) * x_c
                one_x = tl.load(p_c + (z - R) * x_h + (column - LEFT) * x_w, mask=ok_z, other=0.0)
                total += one_g[:, None] * one_x[None, :]
            ok_z_t = ok & ((z - R - r <= R) & (r - z + R <= R))[:, None]
            tl.store(p_out + z * K * out_c + o_out, total.to(dtype), mask=ok_z_t)
