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
    """Channels and source pixels of a program, and its warps."""

    BC: int
    BP: int
    num_warps: int = 4


# [kernel, axis of the channels in a tile]: the default first
TILES = {
    ("carafe", 0): (Tile(32, 32), Tile(16, 32), Tile(16, 64), Tile(64, 32, 8)),
    ("carafe", 1): (Tile(64, 16), Tile(64, 8), Tile(32, 16), Tile(128, 8)),
    ("grad_features", 0): (Tile(16, 32), Tile(8, 32), Tile(32, 32, 8)),
    ("grad_features", 1): (Tile(64, 16), Tile(128, 8), Tile(64, 32, 8)),
    ("grad_masks", 0): (Tile(4, 32), Tile(2, 32, 2)),
    ("grad_masks", 1): (Tile(32, 16), Tile(32, 8, 2), Tile(64, 8)),
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
        layout = _Layout.of(features, (out,) if down else (masks, out), scale)
        args = layout.arguments(features, masks, out, larger=(False, not down, True))
        constants = dict(SUB=_subpixels(scale), DOWN=down)
        _launch(carafe_kernel, "carafe", layout, features.shape, args, constants, (k, groups, scale))
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
        layout = _Layout.of(grad, (grad,) if down else (grad, masks), scale)
        args = layout.arguments(grad, masks, out, larger=(True, not down, False))
        constants = dict(ROWS=3 if k <= 5 else 2 if k <= 9 else 1, DOWN=down)
        _launch(grad_features_kernel, "grad_features", layout, out.shape, args, constants, (k, groups, scale))
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
        layout = _Layout.of(grad, (grad, out), scale)
        args = layout.arguments(grad, features, out, larger=(True, False, True))
        sub, (N, C, H, W) = _subpixels(scale), grad.shape
        # addresses of taps take registers too: of 49 without sub-pixels some were spilt
        most = MAX_ACCUMULATORS // (4 if down else sub)
        constants = dict(SUB=sub, TAPS=min(k * k, most), LANE=LANE if layout.c_axis else 1, D=stride)
        shape = N, C, H // scale, W // scale
        _launch(grad_masks_kernel, "grad_masks", layout, shape, args, constants, (k, groups, scale))
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


class _Layout(NamedTuple):
    """How a call's tensors lie in memory, as the kernels want to know it."""

    c_axis: int  # 1 where channels are adjacent
    vec: int  # 2 where the two neighbours in a row of the larger map are read as one

    @classmethod
    def of(cls, first: Tensor, larger: tuple[Tensor, ...], scale: int) -> "_Layout":
        c_axis = int(first.stride(1) < first.stride(3))
        pairs = scale % 2 == 0 and not c_axis
        pairs = pairs and all(t.stride(3) == 1 and not any(s % 2 for s in t.stride()[:3]) for t in larger)
        return cls(c_axis, 2 if pairs else 1)

    def arguments(self, *tensors: Tensor, larger: tuple[bool, ...]) -> list:
        """Return pointer and strides of each tensor; those of the larger map's size in units of ``vec``."""
        args = []
        for t, is_larger in zip(tensors, larger, strict=True):
            unit = self.vec if is_larger else 1
            args += [t, (*(s // unit for s in t.stride()[:3]), t.stride(3))]
        return args


def _subpixels(scale: int) -> int:
    """Return how many sub-pixels of a source pixel are computed at once: a row of 3, or 4."""
    return 3 if scale == 3 else min(4, scale * scale)


def _row(W: int, H: int, tile: Tile, rows: int, c_axis: int) -> int:
    """Choose a tile's pixels in one row: those that leave the fewest outside the map, then the most."""

    def area(px: int) -> int:
        py = tile.BP // px * rows
        return -(-W // px) * px * -(-H // py) * py

    return min((4,) if c_axis else (32, 16, 8), key=area)


def _fitted(tile: Tile, channels: int, least: int) -> Tile:
    """Give a tile no more channels than there are, and more pixels instead."""
    bc = max(least, min(tile.BC, 1 << max(0, channels - 1).bit_length()))
    return Tile(bc, min(128, tile.BP * tile.BC // bc), tile.num_warps)


@cache
def _tuned(kernel, name: str, c_axis: int, bucket: int, direction: tuple):
    """Return the kernel with tiles chosen by timing, apart for small and large maps, and up and down."""
    import triton

    configs = [triton.Config(dict(BC=t.BC, BP=t.BP), num_warps=t.num_warps) for t in TILES[name, c_axis]]
    return triton.autotune(configs, key=["CPG", "K", "S", "G"])(kernel)


def _launch(kernel, name: str, layout: _Layout, shape, args: list, constants: dict, sizes: tuple) -> None:
    N, C, H, W = shape
    k, groups, scale = sizes
    cpg = C // groups
    rows = constants.get("ROWS", 1)
    # programs that share a tile of pixels: blocks of sub-pixels and of taps
    shared = -(-(scale**2) // constants.get("SUB", scale**2)) * -(-(k * k) // constants.get("TAPS", k * k))
    tile = _fitted(TILES[name, layout.c_axis][0], cpg, constants.get("LANE", 1))
    px = _row(W, H, tile, rows, layout.c_axis)

    def grid(meta: dict) -> tuple[int]:
        blocks_c = 1 if name == "grad_masks" else -(-cpg // meta["BC"])
        py = meta["BP"] // px * rows
        return (N * groups * -(-W // px) * -(-H // py) * blocks_c * shared,)

    constants = constants | dict(G=groups, K=k, S=scale, VEC=layout.vec, C_AXIS=layout.c_axis, PX=px)
    constants["enable_fp_fusion"] = True  # Triton 3.10 no longer does by itself
    if os.environ.get("MMCARAFE_TRITON_AUTOTUNE") == "1":
        direction = constants.get("DOWN"), constants.get("D")
        kernel = _tuned(kernel, name, layout.c_axis, (N * H * W).bit_length() // 4, direction)
    else:
        constants |= tile._asdict()
    triton_starting.start(kernel, grid, (*args, H, W, cpg), constants)
