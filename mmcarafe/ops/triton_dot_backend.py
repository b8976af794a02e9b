# SPDX-License-Identifier: Apache-2.0
"""Calls the Triton kernels for tensor cores where they can serve a call and were the faster ones.

That was measured on an H200 with k = 5 and scale 2 (``docs/gpu.md``).
"""

from math import gcd
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor

from . import triton_starting


class Tile(NamedTuple):
    """Rows of source pixels, channels and warps of a program, loads under way at once, pixels in a row."""

    ROWS: int
    BC: int
    num_warps: int
    STAGES: int
    X: int = 8


# [kernel, axis of the channels in memory, bytes of an element]: where these were the faster ones on an H200
TILES = {
    ("carafe", 0, 2): Tile(4, 128, 4, 3),
    ("carafe", 1, 2): Tile(2, 64, 4, 3),
    ("carafe", 0, 4): Tile(1, 64, 2, 3),
    ("grad_features", 0, 2): Tile(2, 128, 4, 3, 16),
    ("grad_features", 1, 2): Tile(4, 128, 4, 3),
    ("grad_features", 0, 4): Tile(2, 64, 2, 2),
    ("grad_masks", 0, 2): Tile(2, 32, 4, 3),
    ("grad_masks", 1, 2): Tile(2, 64, 4, 2),
    ("grad_masks", 0, 4): Tile(2, 16, 2, 3),
    ("grad_masks", 1, 4): Tile(1, 16, 1, 3),
}
# on GPUs other than Hopper's and B200's a program's matrices are in registers, and that tile's would be spilt
SMALLER_TILES = {("carafe", 0, 2): Tile(2, 128, 4, 3)}
# by bytes of an element: pixels of a row reach twice as many columns; of float32 registers run out earlier
KERNEL_SIZES = {2: (3, 5, 7, 9), 4: (3, 5)}
SCALES = (1, 2)  # of 3 a program would not have a power of 2 of pixels, of 4 too many
# compute capabilities; elsewhere TF32 is little faster than float32, and 12 times the products are multiplied
FAST_TF32 = {(8, 0), (9, 0), (10, 0), (10, 3)}


def launch(name: str, tensors: tuple[Tensor, ...], shape, sizes: tuple[int, int, int]) -> bool:
    """Start the kernel of an op that makes the last of the tensors of the others; False where none is fit.

    ``shape`` is that of the features, ``sizes`` are kernel_size, group_size and scale_factor.
    """
    first, (N, C, H, W), (k, groups, scale) = tensors[0], shape, sizes
    size = first.element_size()
    key = name, int(first.stride(1) < first.stride(3)), size
    if key not in TILES or k not in KERNEL_SIZES[size] or scale not in SCALES:
        return False
    if not (capability := _with_tensor_cores(first)):
        return False
    tile = TILES[key] if capability[0] in (9, 10) else SMALLER_TILES.get(key, TILES[key])
    rows, bc = tile.ROWS, max(16, min(tile.BC, 1 << (C // groups - 1).bit_length()))
    # channels, rows and columns that offsets in a tile span, those of rows above and below it too
    span = max(bc, k * k), (rows + k) * scale, 2 * tile.X * scale
    if any(sum(map(mul, span, t.stride()[1:])) >= 2**31 for t in tensors):
        return False
    import triton

    from . import triton_dot_kernels

    unit = gcd(8, W, *(s for t in tensors for s in t.stride()[:3]))
    args = [x for t in tensors for x in (t, (*(s // unit for s in t.stride()[:3]), t.stride(3)))]
    constants = dict(G=groups, K=k, S=scale, A=unit) | tile._asdict() | dict(BC=bc)
    constants["PRECISION"] = "tf32" if first.dtype == torch.float32 else "ieee"
    if name == "carafe":
        constants["PAIRS"] = unit % 2 == 0 and tensors[1].stride(3) == 1
    blocks = N * groups * -(-H // rows) * -(-W // tile.X)
    if name != "grad_masks":
        blocks *= -(-C // groups // bc)
    kernel = getattr(triton_dot_kernels, f"{name}_dot_kernel")
    constants["WIDEN"] = not isinstance(kernel, triton.JITFunction)
    triton_starting.start(kernel, lambda meta: (blocks,), (*args, H, W // unit, C // groups), constants)
    return True


def _with_tensor_cores(t: Tensor) -> tuple[int, int] | None:
    """Return the compute capability of a tensor's device if that has fast ones for its dtype."""
    if torch.version.hip is not None:
        return None  # not tried
    if not t.is_cuda:
        return 9, 0  # Triton's interpreter computes the same
    capability = torch.cuda.get_device_capability(t.device)
    fast = capability in FAST_TF32 if t.dtype == torch.float32 else capability >= (8, 0)
    return capability if fast else None
