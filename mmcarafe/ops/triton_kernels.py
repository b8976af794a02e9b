# SPDX-License-Identifier: Apache-2.0
"""Both operators and their gradients as Triton kernels, for GPUs; :mod:`.triton_backend` calls them.

Each kernel gathers: a program owns a tile of its output, sums it in registers in a fixed order and writes it
once, without atomics, so results are the same bits every time. Tensors of any strides are read in place; sums
are in float32, addresses in 64 bits. ``docs/gpu.md`` has the bounds that the tiles were designed for.

Names: ``i_`` number of a program, ``o_`` offsets, ``p_`` pointers, ``ok_`` what exists, ``b_`` values.
Sizes: ``K`` kernel_size, ``S`` scale_factor or stride, ``G`` group_size, ``CPG`` channels of a group. A tile
is [BP, BC]: ``BP`` source pixels, ``PX`` of them in a row, and ``BC`` channels. ``SUB`` sub-pixels of a
source pixel are computed at once, and ``CB`` blocks of channels, all served by a weight that was loaded once.

Names are the upsampler's. Downsampling makes a map smaller, as the upsampler's gradient does, and its own
gradient makes one larger, so two kernels serve both: with ``DOWN``, the pixels of the smaller map have a
kernel each, whose taps are offsets on the larger one.
"""

import triton
import triton.language as tl

from .triton_parts import in_kernel, pixels, quarters, weights, wide, zeros


@triton.jit
def carafe_kernel(
    features_ptr, features_strides, masks_ptr, masks_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, SUB: tl.constexpr, DOWN: tl.constexpr,
    PX: tl.constexpr, CB: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Compute out[n,c,s*y+i,s*x+j] = sum over taps of masks[n,tap,s*y+i,s*x+j] * features[n,c,y+dy,x+dx].

    With DOWN, out[n,c,s*y+i,s*x+j] = sum over dy and dx of masks[n,tap,y+dy,x+dx] * features[n,c,y+dy,x+dx],
    where the tap is (i-s*dy, j-s*dx), as seen from the centre of that kernel.
    """
    R: tl.constexpr = K // 2
    BEFORE: tl.constexpr = R // S if DOWN else R
    AFTER: tl.constexpr = (R + S - 1) // S if DOWN else R
    NSUB: tl.constexpr = (S * S + SUB - 1) // SUB
    x_n, x_c, x_h, x_w = wide(features_strides)
    m_n, m_c, m_h, m_w = wide(masks_strides)
    out_n, out_c, out_h, out_w = wide(out_strides)
    pid = tl.program_id(0)
    blocks_c = tl.cdiv(CPG, BC * CB)
    i_c = pid % blocks_c
    i_s = pid // blocks_c % NSUB
    y, x, pid = pixels(pid // blocks_c // NSUB, H, W, BP, PX, 1)
    i_g = pid % G
    i_n = pid // G

    o_c = i_c * BC * CB + tl.arange(0, BC)
    ok_p = (y < H) & (x < W)
    c = tl.expand_dims(i_g * CPG + o_c, 0)
    p_x = features_ptr + i_n * x_n + c * x_c + tl.expand_dims(y * x_h + (x - BEFORE) * x_w, 1)
    p_m = masks_ptr + i_n * m_n + i_g * K * K * m_c  # [BP]
    if DOWN:
        p_m = p_m + y * m_h + (x - BEFORE) * m_w
    else:  # what is computed outside the map, with masks inside it, is not stored
        p_m = p_m + tl.minimum(y, H - 1) * S * m_h + tl.minimum(x, W - 1) * S * m_w

    acc = zeros(SUB * CB, BP, BC)
    for a in range(BEFORE + 1 + AFTER):
        dx = a - BEFORE
        ok_x = (x + dx >= 0) & (x + dx < W)
        for dy in tl.static_range(-BEFORE, AFTER + 1):
            ok_y = ok_x & (y + dy >= 0) & (y + dy < H)
            b_x = ()
            for b in tl.static_range(CB):
                ok = tl.expand_dims(ok_y, 1) & tl.expand_dims(o_c + b * BC < CPG, 0)
                b_x = b_x + (tl.load(p_x + dy * x_h + b * BC * x_c, mask=ok, other=0.0).to(tl.float32),)
            new = ()
            for q in tl.static_range(SUB):
                sub = tl.minimum(i_s * SUB + q, S * S - 1)
                if DOWN:
                    ty, tx = sub // S - S * dy, sub % S - S * dx
                    b_m = weights(p_m + dy * m_h, m_c, ok_y, ty, tx, K)
                else:
                    p_q = p_m + ((dy + R) * K * m_c + sub // S * m_h + sub % S * m_w)
                    b_m = tl.load(p_q).to(tl.float32)
                b_m = tl.expand_dims(b_m, 1)
                for b in tl.static_range(CB):
                    if DOWN:
                        new = new + (acc[q * CB + b] + b_m * tl.where(in_kernel(ty, tx, K), b_x[b], 0.0),)
                    else:
                        new = new + (acc[q * CB + b] + b_m * b_x[b],)
            acc = new
        p_x += x_w
        p_m += m_w if DOWN else m_c

    p_out = out_ptr + i_n * out_n + c * out_c
    p_out = p_out + tl.expand_dims(y * S * out_h + x * S * out_w, 1)
    for q in tl.static_range(SUB):
        sub = i_s * SUB + q
        p_q = p_out + (sub // S * out_h + sub % S * out_w)
        for b in tl.static_range(CB):
            ok = tl.expand_dims(ok_p, 1) & tl.expand_dims(o_c + b * BC < CPG, 0) & (sub < S * S)
            tl.store(p_q + b * BC * out_c, acc[q * CB + b].to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def grad_features_kernel(
    grad_ptr, grad_strides, masks_ptr, masks_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr, DOWN: tl.constexpr,
    PX: tl.constexpr, CB: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Compute out[n,c,y,x] = sum over taps and sub-pixels of masks[n,tap,Y,X] * grad[n,c,Y,X].

    Y = s*(y-dy)+i and X = s*(x-dx)+j. A program sums ROWS source rows: a value serves all that it reaches.
    With DOWN, out[n,c,y,x] = sum over taps of masks[n,tap,y,x] * grad[n,c,s*y+dy,s*x+dx].
    """
    R: tl.constexpr = K // 2
    # rows and columns of the larger map are counted one by one, and otherwise S of them as one
    STEP: tl.constexpr = S if DOWN else 1
    SUB: tl.constexpr = S // STEP
    g_n, g_c, g_h, g_w = wide(grad_strides)
    m_n, m_c, m_h, m_w = wide(masks_strides)
    out_n, out_c, out_h, out_w = wide(out_strides)
    pid = tl.program_id(0)
    blocks_c = tl.cdiv(CPG, BC * CB)
    i_c = pid % blocks_c
    y, x, pid = pixels(pid // blocks_c, H, W, BP, PX, ROWS)
    i_g = pid % G
    i_n = pid // G

    o_c = i_c * BC * CB + tl.arange(0, BC)
    c = tl.expand_dims(i_g * CPG + o_c, 0)
    p_g = grad_ptr + i_n * g_n + c * g_c + tl.expand_dims(y * S * g_h + (x * STEP - R) * SUB * g_w, 1)
    p_m = masks_ptr + i_n * m_n + i_g * K * K * m_c  # [BP]
    if DOWN:
        p_m += y * m_h + x * m_w
    else:
        p_m += y * S * m_h + (x - R) * S * m_w + (K - 1) * m_c

    acc = zeros(ROWS * CB, BP, BC)
    for a in range(K * SUB):
        dx = a // SUB - R
        i = a % SUB
        ok_x = (x * STEP + dx >= 0) & (x * STEP + dx < W * STEP)
        p_a = p_g + i * g_h
        p_w = p_m if DOWN else p_m + i * m_h
        for d in tl.static_range(-R, (ROWS - 1) * STEP + R + 1):
            ok_p = ok_x & (y * STEP + d >= 0) & (y * STEP + d < H * STEP)
            for j in tl.static_range(SUB):
                b_g = ()
                for b in tl.static_range(CB):
                    ok = tl.expand_dims(ok_p, 1) & tl.expand_dims(o_c + b * BC < CPG, 0)
                    p_b = p_a + (d * SUB * g_h + j * g_w + b * BC * g_c)
                    b_g = b_g + (tl.load(p_b, mask=ok, other=0.0).to(tl.float32),)
                new = ()
                for r in tl.static_range(ROWS):
                    if (r * STEP - d <= R) and (d - r * STEP <= R):
                        if DOWN:
                            p_r = p_w + (r * m_h + (d - r * S + R) * K * m_c)
                            ok_r = ok_p & (y + r < H) & (x < W)
                        else:
                            p_r = p_w + ((r - d + R) * K * m_c + d * S * m_h + j * m_w)
                            ok_r = ok_p
                        b_m = tl.load(p_r, mask=ok_r, other=0.0).to(tl.float32)
                        for b in tl.static_range(CB):
                            new = new + (acc[r * CB + b] + tl.expand_dims(b_m, 1) * b_g[b],)
                    else:
                        for b in tl.static_range(CB):
                            new = new + (acc[r * CB + b],)
                acc = new
        if i == SUB - 1:
            p_g += SUB * g_w
            p_m += m_c if DOWN else S * m_w - m_c

    p_out = out_ptr + i_n * out_n + c * out_c + tl.expand_dims(y * out_h + x * out_w, 1)
    for r in tl.static_range(ROWS):
        for b in tl.static_range(CB):
            ok_p = (y + r < H) & (x < W)
            ok = tl.expand_dims(ok_p, 1) & tl.expand_dims(o_c + b * BC < CPG, 0)
            p_r = p_out + (r * out_h + b * BC * out_c)
            tl.store(p_r, acc[r * CB + b].to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def grad_masks_kernel(
    grad_ptr, grad_strides, features_ptr, features_strides, out_ptr, out_strides, H, W, CPG,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, SUB: tl.constexpr,
    TAPS: tl.constexpr, LANE: tl.constexpr, D: tl.constexpr,
    PX: tl.constexpr, CB: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Compute out[n,tap,s*y+i,s*x+j] = sum over a group's c of
    grad[n,c,s*y+i,s*x+j] * features[n,c,d*y+dy,d*x+dx].

    A program sums TAPS of the K*K taps over all channels, BC at a time; LANE adjacent ones, 1 or 4, are one
    thread's. Of s and d, scale factor and stride, one is 1.
    """
    R: tl.constexpr = K // 2
    NSUB: tl.constexpr = (S * S + SUB - 1) // SUB
    NTAP: tl.constexpr = (K * K + TAPS - 1) // TAPS
    g_n, g_c, g_h, g_w = wide(grad_strides)
    x_n, x_c, x_h, x_w = wide(features_strides)
    out_n, out_c, out_h, out_w = wide(out_strides)
    pid = tl.program_id(0)
    i_t = pid % NTAP
    i_s = pid // NTAP % NSUB
    y, x, pid = pixels(pid // NTAP // NSUB, H, W, BP, PX, 1)
    i_g = pid % G
    i_n = pid // G

    o_c = tl.expand_dims(tl.arange(0, BC), 0)
    ok_p = (y < H) & (x < W)
    p_g = grad_ptr + i_n * g_n + (i_g * CPG + o_c) * g_c
    p_g = p_g + tl.expand_dims(y * S * g_h + x * S * g_w, 1)
    p_x = features_ptr + i_n * x_n + (i_g * CPG + o_c) * x_c
    p_x = p_x + tl.expand_dims(y * D * x_h + x * D * x_w, 1)
    if (
        LANE == 1
    ):  # adds nothing, but unknown to the compiler: it would read some taps as vectors, in another layout
        p_x += tl.where(W > 0, 0, 1)

    acc = zeros(TAPS * SUB, BP, BC // LANE)
    for c in range(0, CPG, BC):
        ok_c = c + o_c < CPG
        ok = tl.expand_dims(ok_p, 1) & ok_c
        b_g = ()
        for q in tl.static_range(SUB):
            sub = i_s * SUB + q
            p_q = p_g + (sub // S * g_h + sub % S * g_w)
            b_g = b_g + (tl.load(p_q, mask=ok & (sub < S * S), other=0.0).to(tl.float32),)
        new = ()
        for a in tl.static_range(TAPS):
            dy = (i_t * TAPS + a) // K - R
            dx = (i_t * TAPS + a) % K - R
            ok_x = (y * D + dy >= 0) & (y * D + dy < H * D) & (x * D + dx >= 0) & (x * D + dx < W * D)
            ok = tl.expand_dims(ok_x, 1) & ok_c
            b_x = tl.load(p_x + (dy * x_h + dx * x_w), mask=ok, other=0.0).to(tl.float32)
            for q in tl.static_range(SUB):
                total = acc[a * SUB + q]
                if LANE == 4:
                    g_0, g_1, g_2, g_3 = quarters(b_g[q], BP, BC)
                    x_0, x_1, x_2, x_3 = quarters(b_x, BP, BC)
                    total += g_0 * x_0
                    total += g_1 * x_1
                    total += g_2 * x_2
                    total += g_3 * x_3
                else:
                    total += b_g[q] * b_x
                new = new + (total,)
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
            tl.store(p_sub, tl.sum(tl.join(left, right), axis=1).to(dtype), mask=ok_sub)
        else:
            for q in tl.static_range(SUB):
                sub = i_s * SUB + q
                total = tl.sum(acc[a * SUB + q], axis=1).to(dtype)
                tl.store(p_tap + (sub // S * out_h + sub % S * out_w), total, mask=ok_tap & (sub < S * S))
