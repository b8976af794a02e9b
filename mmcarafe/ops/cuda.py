# SPDX-License-Identifier: Apache-2.0
"""CUDA tensors: which implementation serves a call, and choosing one by hand."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from . import mmcv_backend, triton_backend
from .carafe import DEFAULT_KERNELS
from .carafe_downsample import DOWNSAMPLE_KERNELS

_log = logging.getLogger("mmcarafe")
_lib = Library("mmcarafe", "IMPL", "CUDA")


class Implementation(NamedTuple):
    """Its ops by name, and a function that says why they cannot serve a call, or None if they can.

    mmcv has none for downsampling. The reference of those calls upsampling ops.
    """

    kernels: dict[str, Callable]
    why_not: Callable[..., str | None]


def _of(module, downsampling: dict[str, Callable] | None = None) -> Implementation:
    kernels = {
        "carafe": module.carafe,
        "carafe_grad_features": module.grad_features,
        "carafe_grad_masks": module.grad_masks,
        "carafe_backward": module.backward,
    }
    return Implementation(kernels | (downsampling or {}), module.why_not)


# Tried in this order for float32 and half precision; float64 is the reference's alone.
IMPLEMENTATIONS = {
    "triton": _of(triton_backend, triton_backend.DOWNSAMPLE_KERNELS),
    "mmcv": _of(mmcv_backend),
    "reference": Implementation(DEFAULT_KERNELS | DOWNSAMPLE_KERNELS, lambda *args: None),
}
_named = [os.environ.get("MMCARAFE_CUDA") or None]


def choose(op: str, tensors: tuple[Tensor, ...], k: int, groups: int, scale: int) -> str:
    """Name of the implementation that serves a call: the one asked for, or the first that can.

    The reference serves what the one asked for has no op for; the ops it calls are asked of that one again.

    Raises:
        ValueError: the one asked for, by ``MMCARAFE_CUDA`` or :func:`use_implementation`, cannot.
    """
    if any(t.numel() == 0 for t in tensors):
        return "reference"  # nothing to compute, whatever was asked for
    if _named[0]:
        name = _known(_named[0])
        if op not in IMPLEMENTATIONS[name].kernels:
            return "reference"
        if reason := IMPLEMENTATIONS[name].why_not(op, tensors, k, groups, scale):
            raise ValueError(
                f"{name} was asked for and cannot run {op} on {tuple(tensors[0].shape)}: {reason}; "
                "without MMCARAFE_CUDA and use_implementation another one is chosen"
            )
        return name
    reasons, name = [], "reference"
    for name in IMPLEMENTATIONS if tensors[0].dtype in triton_backend.DTYPES else ("reference",):
        if op not in IMPLEMENTATIONS[name].kernels:
            continue
        reason = IMPLEMENTATIONS[name].why_not(op, tensors, k, groups, scale)
        if reason is None:
            break
        reasons.append(f"{name}: {reason}")
    _log.debug("%s on %s: %s%s", op, tuple(tensors[0].shape), name, "".join(f"; not {r}" for r in reasons))
    if name == "reference" and reasons and op in DEFAULT_KERNELS:
        _warn_once("; ".join(reasons))
    return name


_warned = set()


def _warn_once(reasons: str) -> None:
    if reasons not in _warned:
        _warned.add(reasons)
        warnings.warn(
            f"CARAFE runs in plain PyTorch on this GPU, which is slower ({reasons}); install Triton 3.4 or "
            "newer (torch 2.8 and newer bring it), or an mmcv that was built for CUDA",
            stacklevel=2,
        )


def _known(name: str) -> str:
    if name not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(
            f"implementation for CUDA tensors (MMCARAFE_CUDA): expected one of {known}, got {name!r}"
        )
    return name


def names() -> list[str]:
    """List the implementations; whether one can run depends on the machine and the call."""
    return list(IMPLEMENTATIONS)


@contextmanager
def using(name: str) -> Iterator[None]:
    """Run the operator on CUDA tensors with one of :func:`names` while active."""
    before, _named[0] = _named[0], name
    try:
        yield
    finally:
        _named[0] = before


_INPUTS = {
    "carafe": ("features", "masks"),
    "carafe_grad_features": ("grad", "masks"),
    "carafe_grad_masks": ("grad", "features"),
    "carafe_backward": ("grad", "features", "masks"),
    "carafe_downsample": ("features", "masks"),
    "carafe_downsample_grad_features": ("grad", "masks"),
    "carafe_downsample_grad_masks": ("grad", "features"),
}


def _check(op: str, tensors: tuple[Tensor, ...], k: int, groups: int, scale: int) -> None:
    """Refuse what would make a kernel leave its memory; the public function says more."""
    first = tensors[0]
    N, C, H, W = first.shape
    down = op in DOWNSAMPLE_KERNELS
    # which of the two sizes the first tensor has
    if (_INPUTS[op][0] == "features") == down:
        H, W = H // scale, W // scale
    source, target = (H, W), (scale * H, scale * W)
    if down:
        source, target = target, source
    shapes = dict(features=(N, C, *source), masks=(N, groups * k * k, *target), grad=(N, C, *target))
    if k % 2 == 0 or C % groups:
        raise ValueError(f"{op}: arguments do not fit: kernel_size={k}, group_size={groups}, {C} channels")
    for name, t in zip(_INPUTS[op], tensors, strict=True):
        if tuple(t.shape) != shapes[name]:
            raise ValueError(f"{op}: sizes do not fit: {name} is {tuple(t.shape)}, not {shapes[name]}")
        if t.dtype != first.dtype or t.device != first.device:
            raise TypeError(f"{op}: tensors of one dtype on one device expected, got {t.dtype} on {t.device}")


def serve(op: str, *inputs):
    """Run an op with the implementation chosen for its tensors, on their device."""
    tensors, sizes = inputs[:-3], inputs[-3:]
    _check(op, tensors, *sizes)
    name = choose(op, tensors, *sizes)
    with torch.cuda.device_of(tensors[0]):
        return IMPLEMENTATIONS[name].kernels[op](*inputs)


def _register() -> None:
    for op in _INPUTS:
        _lib.impl(op, lambda *inputs, op=op: serve(op, *inputs))


_register()
