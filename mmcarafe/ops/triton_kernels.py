# SPDX-License-Identifier: Apache-2.0
"""Both operators and their gradients as Triton kernels, for GPUs; :mod:`.triton_backend` calls them.

Each kernel gathers: a program owns a tile of its output, sums it in registers in a fixed order and writes it
once, without atomics, so results are the same bits every time. Tensors of any strides are read in place; sums
are in float32, addresses in 64 bits. ``docs/gpu.md`` has the bounds that the tiles were designed for.

Names: ``i_`` number of a program, ``o_`` offsets, ``p_`` pointers, ``ok_`` what exists, ``b_`` values.
Sizes: ``K`` kernel_size, ``S`` scale_factor or stride, ``G`` group_size, ``CPG`` channels of a group. A
program takes ``BC`` channels and ``BP`` source pixels, ``PX`` of them in a row. A tile is [BC, BP] where
adjacent pixels are adjacent in memory (``C_AXIS`` 0) and [BP, BC] where adjacent channels are (``C_AXIS`` 1),
so that neighbouring threads read neighbouring addresses. ``SUB`` sub-pixels of a source pixel are computed at
once, two at a time where a row of the larger map may be read in pairs (``VEC`` 2).

Names are the upsampler's. Downsampling makes a map smaller, as the upsampler's gradient does, and its own
gradient makes one larger, so two kernels serve both: with ``DOWN``, the pixels of the smaller map have a
kernel each, whose taps are offsets on the larger one.
"""

import triton
import triton.language as tl

from .triton_parts import in_kernel, pairs, pixels, weights, wide, zeros


@triton.jit
def carafe_kernel(
    features_ptr, features_strides, masks_ptr, masks_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, SUB: tl.constexpr, VEC: tl.constexpr,
    DOWN: tl.constexpr, C_AXIS: tl.constexpr, PX: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Compute out[n,c,s*y+i,s*x+j] = sum over taps of masks[n,tap,s*y+i,s*x+j] * features[n,c,y+dy,x+dx].

    With DOWN, out[n,c,s*y+i,s*x+j] = sum over dy and dx of masks[n,tap,y+dy,x+dx] * features[n,c,y+dy,x+dx],
    where the tap is (i-s*dy, j-s*dx), as seen from the centre of that kernel.
    """
    R: tl.constexpr = K // 2
    BEFORE: tl.constexpr = R // S if DOWN else R
    AFTER: tl.constexpr = (R + S - 1) // S if DOWN else R
    NSUB: tl.constexpr = (S * S + SUB - 1) // SUB
    x_n, x_c, x_h, x_w = wide(features_strides, 1)
    m_n, m_c, m_h, m_w = wide(masks_strides, 1 if DOWN else VEC)
    out_n, out_c, out_h, out_w = wide(out_strides, VEC)
    pid = tl.program_id(0)
    blocks_c = tl.cdiv(CPG, BC)
    i_c = pid % blocks_c
    i_s = pid // blocks_c % NSUB
    y, x, pid = pixels(pid // blocks_c // NSUB, H, W, BP, PX, 1)
    i_g = pid % G
    i_n = pid // G

    o_c = i_c * BC + tl.arange(0, BC)
    ok_p = (y < H) & (x < W)
    ok_c = tl.expand_dims(o_c < CPG, 1 - C_AXIS)
    o_c = tl.expand_dims(i_g * CPG + o_c, 1 - C_AXIS)
    p_x = features_ptr + i_n * x_n + o_c * x_c + tl.expand_dims((y - BEFORE) * x_h + x * x_w, C_AXIS)
    p_m = masks_ptr + i_n * m_n + i_g * K * K * m_c  # [BP]
    if DOWN:
        p_m = p_m + (y - BEFORE) * m_h + x * m_w
    else:
        p_m = p_m + y * S * m_h + x * S * m_w
        if VEC == 2:
            p_m = pairs(p_m, m_w)

    acc = zeros(SUB, BC, BP, C_AXIS)
    for a in range(BEFORE + 1 + AFTER):
        dy = a - BEFORE
        ok_y = (y + dy >= 0) & (y + dy < H)
        for dx in tl.static_range(-BEFORE, AFTER + 1):
            ok_x = ok_y & (x + dx >= 0) & (x + dx < W)
            ok = tl.expand_dims(ok_x, C_AXIS) & ok_c
            b_x = tl.load(p_x + dx * x_w, mask=ok, other=0.0).to(tl.float32)
            new = ()
            for q in tl.static_range(0, SUB, 1 if DOWN else VEC):
                sub = i_s * SUB + q
                if DOWN:
                    ty, tx = sub // S - S * dy, sub % S - S * dx
                    b_m = weights(p_m + dx * m_w, m_c, ok_x & (sub < S * S), ty, tx, K)
                    b_q = tl.where(in_kernel(ty, tx, K), b_x, 0.0)  # 0 * inf would be NaN
                    new = new + (acc[q] + tl.expand_dims(b_m, C_AXIS) * b_q,)
                else:
                    p_q = p_m + ((dx + R) * m_c + sub // S * m_h + sub % S * m_w)
                    ok_m = ok_p & (sub < S * S)
                    if VEC == 2:
                        b_m = tl.load(p_q, mask=tl.expand_dims(ok_m, 1), other=0.0).to(tl.float32)
                        b_m0, b_m1 = tl.split(b_m)
                        new = new + (acc[q] + tl.expand_dims(b_m0, C_AXIS) * b_x,)
                        new = new + (acc[q + 1] + tl.expand_dims(b_m1, C_AXIS) * b_x,)
                    else:
                        b_m = tl.load(p_q, mask=ok_m, other=0.0).to(tl.float32)
                        new = new + (acc[q] + tl.expand_dims(b_m, C_AXIS) * b_x,)
            acc = new
        p_x += x_h
        p_m += m_h if DOWN else K * m_c

    ok = tl.expand_dims(ok_p, C_AXIS) & ok_c
    p_out = out_ptr + i_n * out_n + o_c * out_c
    p_out = p_out + tl.expand_dims(y * S * out_h + x * S * out_w, C_AXIS)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    for q in tl.static_range(0, SUB, VEC):
        sub = i_s * SUB + q
        p_q = p_out + (sub // S * out_h + sub % S * out_w)
        ok_q = ok & (sub < S * S)
        if VEC == 2:
            both = tl.join(acc[q], acc[q + 1]).to(dtype)
            tl.store(pairs(p_q, out_w), both, mask=tl.expand_dims(ok_q, 2))
        else:
            tl.store(p_q, acc[q].to(dtype), mask=ok_q)


@triton.jit
def grad_features_kernel(
    grad_ptr, grad_strides, masks_ptr, masks_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr, VEC: tl.constexpr,
    DOWN: tl.constexpr, C_AXIS: tl.constexpr, PX: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Compute out[n,c,y,x] = sum over taps and sub-pixels of masks[n,tap,Y,X] * grad[n,c,Y,X].

    Y = s*(y-dy)+i and X = s*(x-dx)+j. A program sums ROWS source rows: a value serves all that it reaches.
    With DOWN, out[n,c,y,x] = sum over taps of masks[n,tap,y,x] * grad[n,c,s*y+dy,s*x+dx].
    """
    R: tl.constexpr = K // 2
    JS: tl.constexpr = S // VEC
    LEFT: tl.constexpr = (R + VEC - 1) // VEC * VEC  # pairs begin at even columns
    COLUMNS: tl.constexpr = (LEFT + R) // VEC + 1 if DOWN else K * S * JS
    # rows of the larger map are counted one by one, and otherwise S of them as one
    STEP: tl.constexpr = S if DOWN else 1
    g_n, g_c, g_h, g_w = wide(grad_strides, VEC)
    m_n, m_c, m_h, m_w = wide(masks_strides, 1 if DOWN else VEC)
    out_n, out_c, out_h, out_w = wide(out_strides, 1)
    pid = tl.program_id(0)
    blocks_c = tl.cdiv(CPG, BC)
    i_c = pid % blocks_c
    y, x, pid = pixels(pid // blocks_c, H, W, BP, PX, ROWS)
    i_g = pid % G
    i_n = pid // G

    o_c = i_c * BC + tl.arange(0, BC)
    ok_c = tl.expand_dims(o_c < CPG, 1 - C_AXIS)
    o_c = tl.expand_dims(i_g * CPG + o_c, 1 - C_AXIS)
    p_g = grad_ptr + i_n * g_n + o_c * g_c + tl.expand_dims(y * S * g_h + x * S * g_w, C_AXIS)
    p_m = masks_ptr + i_n * m_n + i_g * K * K * m_c  # [BP]
    if VEC == 2:
        p_g = pairs(p_g, g_w)
    if DOWN:
        p_m = p_m + y * m_h + x * m_w
        top, left, rows, columns = y * S, x * S, H * S, W * S
    else:
        p_m = p_m + y * S * m_h + x * S * m_w
        top, left, rows, columns = y, x, H, W
        if VEC == 2:
            p_m = pairs(p_m, m_w)

    acc = zeros(ROWS, BC, BP, C_AXIS)
    for a in range(COLUMNS):
        dx = a // (S * JS) - R
        i = 0 if DOWN else a // JS % S
        o_x = a * VEC - LEFT if DOWN else a % JS * VEC - dx * S
        back = -o_x if DOWN else dx
        ok_x = (left - back >= 0) & (left - back < columns)
        for d in tl.static_range(-R, (ROWS - 1) * STEP + R + 1):
            o_y = d * (S // STEP) + i
            ok_p = ok_x & (top + d >= 0) & (top + d < rows)
            ok = tl.expand_dims(ok_p, C_AXIS) & ok_c
            p_d = p_g + (o_y * g_h + o_x * g_w)
            if VEC == 2:
                b_g0, b_g1 = tl.split(tl.load(p_d, mask=tl.expand_dims(ok, 2), other=0.0).to(tl.float32))
            else:
                b_g0 = tl.load(p_d, mask=ok, other=0.0).to(tl.float32)
            if DOWN and VEC == 2:  # 0 * inf would be NaN
                b_g0 = tl.where(o_x >= -R, b_g0, 0.0)
                b_g1 = tl.where(o_x < R, b_g1, 0.0)
            new = ()
            for r in tl.static_range(ROWS):
                if (r * STEP - d <= R) and (d - r * STEP <= R):
                    if DOWN:
                        ok_r = ok_p & (y + r < H) & (x < W)
                        b_m0 = weights(p_m + r * m_h, m_c, ok_r, d - r * S, o_x, K)
                        if VEC == 2:
                            b_m1 = weights(p_m + r * m_h, m_c, ok_r, d - r * S, o_x + 1, K)
                    else:
                        p_r = p_m + (((r - d + R) * K + dx + R) * m_c + o_y * m_h + o_x * m_w)
                        if VEC == 2:
                            b_m = tl.load(p_r, mask=tl.expand_dims(ok_p, 1), other=0.0).to(tl.float32)
                            b_m0, b_m1 = tl.split(b_m)
                        else:
                            b_m0 = tl.load(p_r, mask=ok_p, other=0.0).to(tl.float32)
                    total = acc[r] + tl.expand_dims(b_m0, C_AXIS) * b_g0
                    if VEC == 2:
                        total += tl.expand_dims(b_m1, C_AXIS) * b_g1
                    new = new + (total,)
                else:
                    new = new + (acc[r],)
            acc = new

    p_out = out_ptr + i_n * out_n + o_c * out_c + tl.expand_dims(y * out_h + x * out_w, C_AXIS)
    for r in tl.static_range(ROWS):
        ok = tl.expand_dims((y + r < H) & (x < W), C_AXIS) & ok_c
        tl.store(p_out + r * out_h, acc[r].to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def grad_masks_kernel(
    grad_ptr, grad_strides, features_ptr, features_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, SUB: tl.constexpr, VEC: tl.constexpr,
    TAPS: tl.constexpr, LANE: tl.constexpr, D: tl.constexpr,
    C_AXIS: tl.constexpr, PX: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Compute out[n,tap,s*y+i,s*x+j] = sum over a group's c of
    grad[n,c,s*y+i,s*x+j] * features[n,c,d*y+dy,d*x+dx].

    A program sums TAPS of the K*K taps over all channels, BC at a time; LANE adjacent ones are added at once.
    Of s and d, scale factor and stride, one is 1.
    """
    R: tl.constexpr = K // 2
    NSUB: tl.constexpr = (S * S + SUB - 1) // SUB
    NTAP: tl.constexpr = (K * K + TAPS - 1) // TAPS
    g_n, g_c, g_h, g_w = wide(grad_strides, VEC)
    x_n, x_c, x_h, x_w = wide(features_strides, 1)
    out_n, out_c, out_h, out_w = wide(out_strides, VEC)
    pid = tl.program_id(0)
    i_t = pid % NTAP
    i_s = pid // NTAP % NSUB
    y, x, pid = pixels(pid // NTAP // NSUB, H, W, BP, PX, 1)
    i_g = pid % G
    i_n = pid // G

    o_c = tl.expand_dims(tl.arange(0, BC), 1 - C_AXIS)
    ok_p = (y < H) & (x < W)
    p_g = grad_ptr + i_n * g_n + (i_g * CPG + o_c) * g_c
    p_g = p_g + tl.expand_dims(y * S * g_h + x * S * g_w, C_AXIS)
    p_x = features_ptr + i_n * x_n + (i_g * CPG + o_c) * x_c
    p_x = p_x + tl.expand_dims(y * D * x_h + x * D * x_w, C_AXIS)
    if VEC == 2:
        p_g = pairs(p_g, g_w)

    acc = zeros(TAPS * SUB, BC // LANE, BP, C_AXIS)
    for c in range(0, CPG, BC):
        ok_c = c + o_c < CPG
        ok = tl.expand_dims(ok_p, C_AXIS) & ok_c
        b_g = ()
        for q in tl.static_range(0, SUB, VEC):
            sub = i_s * SUB + q
            p_q = p_g + (sub // S * g_h + sub % S * g_w)
            ok_q = ok & (sub < S * S)
            if VEC == 2:
                b_g0, b_g1 = tl.split(tl.load(p_q, mask=tl.expand_dims(ok_q, 2), other=0.0).to(tl.float32))
                b_g = b_g + (b_g0, b_g1)
            else:
                b_g = b_g + (tl.load(p_q, mask=ok_q, other=0.0).to(tl.float32),)
        new = ()
        for a in tl.static_range(TAPS):
            dy = (i_t * TAPS + a) // K - R
            dx = (i_t * TAPS + a) % K - R
            ok_x = (y * D + dy >= 0) & (y * D + dy < H * D) & (x * D + dx >= 0) & (x * D + dx < W * D)
            ok = tl.expand_dims(ok_x, C_AXIS) & ok_c
            b_x = tl.load(p_x + (dy * x_h + dx * x_w), mask=ok, other=0.0).to(tl.float32)
            for q in tl.static_range(SUB):
                product = b_g[q] * b_x
                if LANE > 1:
                    product = tl.sum(tl.reshape(product, [BP, BC // LANE, LANE]), axis=2)
                new = new + (acc[a * SUB + q] + product,)
        acc = new
        p_g += BC * g_c
        p_x += BC * x_c

    p_out = out_ptr + i_n * out_n + i_g * K * K * out_c + y * S * out_h + x * S * out_w  # [BP]
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    for a in tl.static_range(TAPS):
        tap = i_t * TAPS + a
        p_tap = p_out + tap * out_c
        ok_tap = ok_p & (tap < K * K)
        if SUB == 4:  # all at once, [BP, 2, 2]: fewer exchanges between threads, and stores of pairs
            left, right = tl.join(acc[4 * a], acc[4 * a + 2]), tl.join(acc[4 * a + 1], acc[4 * a + 3])
            sub = i_s * SUB + tl.expand_dims(tl.arange(0, 2) * 2, 1) + tl.expand_dims(tl.arange(0, 2), 0)
            sub = tl.expand_dims(sub, 0)
            p_sub = tl.expand_dims(tl.expand_dims(p_tap, 1), 2) + sub // S * out_h + sub % S * out_w
            ok_sub = tl.expand_dims(tl.expand_dims(ok_tap, 1), 2) & (sub < S * S)
            tl.store(p_sub, tl.sum(tl.join(left, right), axis=C_AXIS).to(dtype), mask=ok_sub)
        else:
            for q in tl.static_range(SUB):
                sub = i_s * SUB + q
                total = tl.sum(acc[a * SUB + q], axis=C_AXIS).to(dtype)
                tl.store(p_tap + (sub // S * out_h + sub % S * out_w), total, mask=ok_tap & (sub < S * S))
