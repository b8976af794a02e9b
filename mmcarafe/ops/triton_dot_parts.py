# SPDX-License-Identifier: Apache-2.0
"""Hold what the kernels for tensor cores have in common; :mod:`.triton_dot_kernels` explains the names."""

import triton
import triton.language as tl


@triton.jit
def place(pid, H, W, ROWS: tl.constexpr, X: tl.constexpr):
    """Find first row and first column of a program's source pixels, and the rest of pid."""
    blocks_x = tl.cdiv(W, X)
    x0 = pid % blocks_x * X
    pid = pid // blocks_x
    blocks_y = tl.cdiv(H, ROWS)
    return pid % blocks_y * ROWS, x0, pid // blocks_y


@triton.jit
def multiples(strides, A: tl.constexpr):
    """Undo the units of strides."""
    return tl.cast(strides[0], tl.int64) * A, strides[1] * A, strides[2] * A, strides[3]


@triton.jit
def start(pointer, n, c, y, x, s_n, s_c, s_h, s_w):
    """Point to an element, in 64 bits."""
    return (
        pointer
        + n * s_n
        + tl.cast(c, tl.int64) * s_c
        + tl.cast(y, tl.int64) * s_h
        + tl.cast(x, tl.int64) * s_w
    )


@triton.jit
def reaches(d, R: tl.constexpr):
    """Tell whether a distance in rows or columns is inside a kernel."""
    return (d >= -R) & (d <= R)


@triton.jit
def multiply(a, b, acc, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """Add the product of two matrices to a sum."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    if PRECISION == "tf32":
        # what TF32 leaves of a float is a second one; the product of two such rests is too small to count
        a0, b0 = tf32(a), tf32(b)
        part = tl.dot(a - a0, b0, input_precision=PRECISION)
        part = tl.dot(a0, b - b0, part, input_precision=PRECISION)
        part = tl.dot(a0, b0, part, input_precision=PRECISION)
        return acc + part  # not summed by tensor cores, which cut off what does not fit into a sum
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def tf32(x):
    """Round floats to the 11 bits that TF32 has."""
    return (x.to(tl.int32, bitcast=True) + 4096 & -8192).to(tl.float32, bitcast=True)


@triton.jit
def any_spoilt(acc):
    """Tell whether a sum is not finite anywhere."""
    zeros = acc * 0.0
    return tl.max(tl.max((zeros != zeros).to(tl.int32), 1), 0) > 0
