# SPDX-License-Identifier: Apache-2.0
"""From ``upsample_cfg`` to a module: the one table of upsampler types and their arguments."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from mmengine.registry import MODELS, Registry
from torch import nn

from mmcarafe.errors import UpsampleConfigError

from .carafe import CARAFE
from .pixel_shuffle import pixel_shuffle_pack


def _deconv(channels: int, scale: int, cfg: dict) -> dict:
    # upsample_kernel is what mmdet's FPN_CARAFE calls it. The padding makes the output exactly scale
    # times the input, whatever the kernel.
    kernel = cfg.pop("upsample_kernel", cfg.get("kernel_size", scale))
    if not isinstance(kernel, int) or kernel < 1 or (scale == 1 and kernel % 2 == 0):
        raise UpsampleConfigError(
            f"upsample_cfg type 'deconv': expected a kernel of 1 or more, odd at scale 1, got {kernel!r}"
        )
    padding = max(kernel - scale + 1, 0) // 2
    return dict(
        in_channels=channels,
        out_channels=channels,
        kernel_size=kernel,
        stride=scale,
        padding=padding,
        output_padding=2 * padding - (kernel - scale),
    )


def _pixel_shuffle(channels: int, scale: int, cfg: dict) -> dict:
    kernel = cfg.get("upsample_kernel", 3)
    if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise UpsampleConfigError(
            f"upsample_cfg type 'pixel_shuffle': expected an odd upsample_kernel, got {kernel!r}"
        )
    return dict(in_channels=channels, out_channels=channels, scale_factor=scale, upsample_kernel=kernel)


# How each type calls the channels and the scale factor, and its defaults; upsample_cfg overrides them.
_ARGUMENTS = {
    "nearest": lambda channels, scale, cfg: dict(scale_factor=scale, mode="nearest"),
    "bilinear": lambda channels, scale, cfg: dict(scale_factor=scale, mode="bilinear", align_corners=False),
    "deconv": _deconv,
    "pixel_shuffle": _pixel_shuffle,
}
# What F.interpolate takes. A base config's stay in the dict when a child config adds a type, which they do
# not concern: YOLOX has upsample_cfg=dict(scale_factor=2, mode="nearest").
_INTERPOLATION = {
    "mode": ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    "align_corners": (True, False, None),
}
# the type says it already
_FIXED = {"nearest": ("mode", "align_corners"), "bilinear": ("mode",)}
# Served by our modules instead of what is registered: mmcv's carafe layer, which has the same arguments and
# parameters, is CUDA only.
_OURS = {"carafe": lambda: CARAFE, "pixel_shuffle": pixel_shuffle_pack}


def build_upsample(cfg: dict, channels: int, scale_factor: int, registry: Registry = MODELS) -> nn.Module:
    """Build the upsampler that an ``upsample_cfg`` selects.

    Args:
        cfg (dict): ``type`` and any of the type's own arguments; the ``mode`` and ``align_corners`` of an
            interpolation are left out where the type does not take them. Types: ``nearest``, ``bilinear``,
            ``deconv``, ``pixel_shuffle``, ``carafe``, ``CARAFE``, or any registered module that takes
            ``channels`` and ``scale_factor``.
        channels (int): channels of the maps to upsample; the output has as many.
        scale_factor (int): how many times larger the output is.
        registry (Registry): where other types are looked up, after the registry of the default scope, which
            may be a project's own. Default: mmengine's root ``MODELS``.

    Returns:
        nn.Module: maps Tensor[N, channels, H, W] to Tensor[N, channels, scale_factor * H, scale_factor * W].

    Raises:
        UpsampleConfigError: a ValueError; the type is unknown or does not take the arguments.

    Example:
        >>> import torch
        >>> from mmcarafe.layers import build_upsample
        >>> upsample = build_upsample(dict(type="CARAFE", up_kernel=3), channels=16, scale_factor=2)
        >>> upsample(torch.rand(1, 16, 24, 24)).shape
        torch.Size([1, 16, 48, 48])
    """
    cfg = dict(cfg)
    kind, module = _lookup(cfg.pop("type", None), registry)
    if cfg.pop("scale_factor", scale_factor) != scale_factor:
        raise UpsampleConfigError(
            f"upsample_cfg type {kind!r}: this component upsamples by {scale_factor}; leave scale_factor out"
        )
    takes = inspect.signature(module).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    for name, values in _INTERPOLATION.items():
        refused = name in _FIXED.get(kind, ()) or not (name in takes or takes_any)
        if refused and name in cfg and cfg[name] in values:
            del cfg[name]
        elif name in cfg and name in _FIXED.get(kind, ()):
            raise UpsampleConfigError(f"upsample_cfg type {kind!r}: {name}={cfg[name]!r} is not known")
    if kind in _ARGUMENTS:
        defaults = _ARGUMENTS[kind](channels, scale_factor, cfg)
    else:
        defaults = dict(channels=channels, scale_factor=scale_factor)
    arguments = {**defaults, **cfg}
    try:
        inspect.signature(module).bind(**arguments)
        return module(**arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise UpsampleConfigError(
            f"upsample_cfg type {kind!r}: {error}; it takes {', '.join(takes)}"
        ) from error


def _lookup(kind: Any, registry: Registry) -> tuple[Any, Callable]:
    """Return a type by its own name, whether it was given with a scope or as a class, and what builds it."""
    import mmcv.cnn  # noqa: F401  registers nearest, bilinear and deconv; the layer itself does not need mmcv

    # a project's own registry is that of its default scope
    with registry.switch_scope_and_registry(None) as scoped:
        built_in = {name: scoped.get(name) or registry.get(name) for name in (*_ARGUMENTS, *_OURS)}
        if isinstance(kind, str):
            module = scoped.get(kind) or registry.get(kind)
            names = [kind.rpartition(".")[2]]
        else:
            module = kind
            names = [name for name in built_in if kind is not nn.Upsample]  # that is nearest and bilinear
    kind = next((name for name in names if name in built_in and built_in[name] is module), kind)
    if kind in _OURS:
        module = _OURS[kind]()
    if not callable(module):
        known = (*_ARGUMENTS, "carafe", "CARAFE")
        close = get_close_matches(str(kind), known, n=1, cutoff=0.5)
        raise UpsampleConfigError(
            f"upsample_cfg type {kind!r} is not known"
            + (f"; did you mean {close[0]!r}?" if close else ".")
            + f" Known types: {', '.join(known)}, and any module registered in MODELS that takes "
            "channels and scale_factor"
        )
    return kind, module
