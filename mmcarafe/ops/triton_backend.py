# SPDX-License-Identifier: Apache-2.0
"""Calls the Triton kernels: which tile for which layout, and when they cannot be used.

What tensor cores compute faster is left to :mod:`.triton_dot_backend`. ``MMCARAFE_TRITON_AUTOTUNE=1`` makes
Triton time the tiles of :data:`TILES` at the first call of each kind and keep the fastest. Without it the
first tile of each list is used: a tile fixes the order in which the masks' gradient is summed, so what is
tuned may differ in the last bits from machine to machine.
"""

import os
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import triton_dot_backend, triton_starting
from .outputs import empty_carafe, empty_grad_features, empty_grad_masks

MIN_TRITON = (3, 4)  # the oldest that was tried
MAX_ACCUMULATORS = 100  # registers a thread of the masks' gradient may sum in
LANE = 4  # adjacent channels that one of its threads adds up
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Tile(NamedTuple):
    """Channels and source pixels of a program, its warps, and how many blocks of such channels it takes."""

    BC: int
    BP: int
    num_warps: int = 4
    CB: int = 1


# [kernel, axis of the channels in memory]: first the default, the fastest on an H200 that does not spill
TILES = {
    ("carafe", 0): (Tile(2, 32, 2, 4), Tile(4, 32, 4, 4), Tile(1, 32, 1, 8)),
    ("carafe", 1): (Tile(64, 8, 4, 2), Tile(128, 4, 4, 2), Tile(64, 4, 2, 2)),
    ("grad_features", 0): (Tile(4, 32, 4, 4), Tile(2, 32, 2, 4), Tile(1, 32, 1, 4)),
    ("grad_features", 1): (Tile(64, 8, 4, 2), Tile(32, 16, 4, 2), Tile(64, 16, 8, 2)),
    ("grad_masks", 0): (Tile(4, 32), Tile(4, 32, 2), Tile(2, 32, 2)),
    ("grad_masks", 1): (Tile(32, 8, 2), Tile(32, 4, 1), Tile(64, 4, 2)),
}


@cache
def unusable(on_gpu: bool) -> str | None:
    """Say why no kernel can run in this process; None if they can."""
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if tuple(map(int, triton.__version__.split(".")[:2])) < MIN_TRITON:
        return f"Triton {'.'.join(map(str, MIN_TRITON))} or newer is needed, found {triton.__version__}"
    if on_gpu:
        try:  # Triton compiles its own C module here
            triton.runtime.driver.active.get_current_target()
        except Exception as error:  # no compiler, no headers, no libcuda: each has a type of its own
            return f"Triton does not start ({error!r})"
    return None


def why_not(op: str, tensors: tuple[Tensor, ...], k: int, groups: int, scale: int) -> str | None:
    """Say why the kernels cannot serve a call of an op; None if they can."""
    first = tensors[0]
    if first.dtype not in DTYPES:
        return f"{str(first.dtype)[6:]} is not one of {', '.join(str(dtype)[6:] for dtype in DTYPES)}"
    nvidia = first.is_cuda and torch.version.hip is None
    if nvidia and torch.cuda.get_device_capability(first.device) < (7, 0):
        return "the GPU is older than compute capability 7.0"
    return unusable(first.is_cuda)


def carafe(features: Tensor, masks: Tensor, k: int, groups: int, scale: int, down: bool = False) -> Tensor:
    """Compute what :func:`mmcarafe.ops.reference.carafe` does, from a map to one ``scale`` times larger.

    With ``down``, the gradient of features that were downsampled by ``scale``, whose masks are of the smaller
    map's size.
    """
    from .triton_kernels import carafe_kernel

    out = empty_carafe(features, masks, k, groups, scale)
    if out.numel():
        if not down and triton_dot_backend.launch(
            "carafe", (features, masks, out), features.shape, (k, groups, scale)
        ):
            return out
        constants = dict(SUB=_subpixels(scale), DOWN=down)
        tensors = features, masks, out
        _launch(carafe_kernel, "carafe", tensors, features.shape, constants, (k, groups, scale))
    return out


def grad_features(grad: Tensor, masks: Tensor, k: int, groups: int, scale: int, down: bool = False) -> Tensor:
    """Compute what :func:`mmcarafe.ops.reference.grad_features` does, to a map ``scale`` times smaller.

    With ``down``, downsample ``grad``, whose masks are of the smaller map's size.
    """
    from .triton_kernels import grad_features_kernel

    out = empty_grad_features(grad, masks, k, groups, scale)
    if out.numel():
        if not down and triton_dot_backend.launch(
            "grad_features", (grad, masks, out), out.shape, (k, groups, scale)
        ):
            return out
        rows = 2 if scale > 2 else 3 if down and not _channels_last(grad) else 4  # more would spill registers
        constants = dict(ROWS=rows if k <= 5 else 2 if k <= 9 else 1, DOWN=down)
        tensors = grad, masks, out
        _launch(grad_features_kernel, "grad_features", tensors, out.shape, constants, (k, groups, scale))
    return out


def grad_masks(grad: Tensor, features: Tensor, k: int, groups: int, scale: int, down: bool = False) -> Tensor:
    """Compute what :func:`mmcarafe.ops.reference.grad_masks` does; of downsampling masks with ``down``."""
    from .triton_kernels import grad_masks_kernel

    out = empty_grad_masks(grad, features, k, groups, scale)
    if out.numel():
        if not down and triton_dot_backend.launch(
            "grad_masks", (grad, features, out), features.shape, (k, groups, scale)
        ):
            return out
        scale, stride = (1, scale) if down else (scale, 1)
        sub, (N, C, H, W) = _subpixels(scale), grad.shape
        # addresses of taps take registers too, so of more than one block there are fewer in each
        taps = MAX_ACCUMULATORS // (4 if down else sub)
        taps = k * k if k * k <= taps else taps * 3 // 4
        constants = dict(SUB=sub, TAPS=taps, LANE=LANE if _channels_last(grad) else 1, D=stride)
        shape = N, C, H // scale, W // scale
        _launch(grad_masks_kernel, "grad_masks", (grad, features, out), shape, constants, (k, groups, scale))
    return out


def backward(
    grad: Tensor, features: Tensor, masks: Tensor, k: int, groups: int, scale: int
) -> tuple[Tensor, Tensor]:
    """Compute both gradients."""
    return grad_features(grad, masks, k, groups, scale), grad_masks(grad, features, k, groups, scale)


# as the gradient of upsampled features, the first makes a map smaller; the second makes one larger
DOWNSAMPLE_KERNELS = {
    "carafe_downsample": partial(grad_features, down=True),
    "carafe_downsample_grad_features": partial(carafe, down=True),
    "carafe_downsample_grad_masks": partial(grad_masks, down=True),
}


def _channels_last(t: Tensor) -> bool:
    return t.stride(1) < t.stride(3)


def _subpixels(scale: int) -> int:
    """Return how many sub-pixels of a source pixel are computed at once: a row of 3, or 4."""
    return 3 if scale == 3 else min(4, scale * scale)


def _row(W: int, H: int, tile: Tile, rows: int, c_axis: int) -> int:
    """Choose a tile's pixels in one row: many, as threads read them together, and few outside the map."""
    if c_axis:
        return 4

    def cost(px: int) -> int:
        py = tile.BP // px * rows
        return -(-W // px) * (px + 4) * -(-H // py) * py

    return min((32, 16, 8), key=cost)


def _fitted(tile: Tile, channels: int, least: int) -> Tile:
    """Give a tile no more channels than there are, and more pixels instead."""
    bc = max(least, min(tile.BC, 1 << max(0, channels - 1).bit_length()))
    return Tile(bc, min(128, tile.BP * tile.BC // bc), tile.num_warps, min(tile.CB, -(-channels // bc)))


@cache
def _tuned(kernel, name: str, c_axis: int, bucket: int, direction: tuple):
    """Return the kernel with tiles chosen by timing, apart for small and large maps, and up and down."""
    import triton

    tiles = [tile._asdict() for tile in TILES[name, c_axis]]
    configs = [triton.Config(tile, num_warps=tile.pop("num_warps")) for tile in tiles]
    return triton.autotune(configs, key=["CPG", "K", "S", "G"])(kernel)


def _launch(kernel, name: str, tensors: tuple, shape, constants: dict, sizes: tuple) -> None:
    N, C, H, W = shape
    c_axis = int(_channels_last(tensors[0]))
    k, groups, scale = sizes
    cpg = C // groups
    rows = constants.get("ROWS", 1)
    # programs that share a tile of pixels: blocks of sub-pixels and of taps
    shared = -(-(scale**2) // constants.get("SUB", scale**2)) * -(-(k * k) // constants.get("TAPS", k * k))
    tile = _fitted(TILES[name, c_axis][0], cpg, constants.get("LANE", 1))
    px = _row(W, H, tile, rows, c_axis)

    def grid(meta: dict) -> tuple[int]:
        blocks_c = 1 if name == "grad_masks" else -(-cpg // (meta["BC"] * meta["CB"]))
        py = meta["BP"] // px * rows
        return (N * groups * -(-W // px) * -(-H // py) * blocks_c * shared,)

    constants = constants | dict(G=groups, K=k, S=scale, PX=px)
    constants["enable_fp_fusion"] = True  # Triton 3.10 no longer does by itself
    if os.environ.get("MMCARAFE_TRITON_AUTOTUNE") == "1":
        direction = constants.get("DOWN"), constants.get("D")
        kernel = _tuned(kernel, name, c_axis, (N * H * W).bit_length() // 4, direction)
    else:
        constants |= tile._asdict()
    args = [argument for t in tensors for argument in (t, t.stride())]
    triton_starting.start(kernel, grid, (*args, H, W, cpg), constants)
