# SPDX-License-Identifier: Apache-2.0
"""From ``upsample_cfg`` to a module: the one table of upsampler types, and the builder."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

from mmengine.registry import MODELS, Registry
from torch import nn

from mmcarafe.errors import InputError, UpsampleConfigError

from .carafe import CARAFE
from .dlu import DLU
from .dysample import DySample
from .fade import FADE
from .pixel_shuffle import pixel_shuffle_pack
from .sapa import SAPA


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


# What F.interpolate takes. A base config's stay in the dict when a child config adds a type, which they do
# not concern: YOLOX has upsample_cfg=dict(scale_factor=2, mode="nearest").
_INTERPOLATION = {
    "mode": ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    "align_corners": (True, False, None),
}


def _interpolation(mode: str, **fixed) -> Callable[[int, int, dict], dict]:
    return lambda channels, scale, cfg: dict(scale_factor=scale, mode=mode, **fixed)


class UpsampleType(NamedTuple):
    """A row of the table of types: what a ``type`` stands for, and how it is built."""

    what: str
    source: str = ""
    """Number of its paper on arXiv."""
    module: Callable[[], Callable] | None = None
    """Returns our module; None: what mmcv registers under the name."""
    arguments: Callable[[int, int, dict], dict] | None = None
    """How it calls the channels and the scale factor, and its defaults, which the rest of ``upsample_cfg``
    overrides; None: ``channels`` and ``scale_factor``."""
    fixed: tuple[str, ...] = ()
    """Options of an interpolation that the type says already."""
    takes: str = ""
    """Its arguments in words, where ``arguments`` translates them."""
    variants: tuple[dict, ...] = ({},)
    """Options that change the number of parameters or the graph: documented and tested each."""
    onnx: str = "yes"
    """Whether it is exported, and by which operator where that is one to know of; a test holds it."""

    @property
    def guided(self) -> bool:
        """Whether it takes a guide, as :class:`~mmcarafe.layers.upsampler.Upsampler` explains."""
        return self.module is not None and getattr(self.module(), "guided", False)


_CARAFE = UpsampleType(
    "this package's layer; `carafe` is mmcv's name for its own", "1905.02188", lambda: CARAFE
)
_SAMPLED = "`GridSample`, or `--gather`"
TYPES = {
    "nearest": UpsampleType(
        "`torch.nn.Upsample`", arguments=_interpolation("nearest"), fixed=("mode", "align_corners")
    ),
    "bilinear": UpsampleType(
        "`torch.nn.Upsample`", arguments=_interpolation("bilinear", align_corners=False), fixed=("mode",)
    ),
    "deconv": UpsampleType(
        "transposed convolution",
        arguments=_deconv,
        takes="`kernel_size` or `upsample_kernel` (default: the scale factor)",
    ),
    # mmcv's fails on an empty batch
    "pixel_shuffle": UpsampleType(
        "mmcv's convolution and pixel shuffle",
        "1609.05158",
        pixel_shuffle_pack,
        arguments=_pixel_shuffle,
        takes="`upsample_kernel=3`",
    ),
    # mmcv's, which has the same arguments and parameters, is CUDA only
    "carafe": _CARAFE,
    "CARAFE": _CARAFE,
    "DySample": UpsampleType(
        "samples the map at predicted points",
        "2308.15085",
        lambda: DySample,
        variants=({}, dict(dyscope=True), dict(style="pl"), dict(style="pl", dyscope=True)),
        onnx=_SAMPLED,
    ),
    "DLU": UpsampleType(
        "samples one predicted kernel a source pixel at predicted points, then reassembles",
        "2410.22139",
        lambda: DLU,
        onnx=_SAMPLED,
    ),
    "SAPA": UpsampleType(
        "reassembles by likeness of guide and map (SAPA-B)",
        "2209.12866",
        lambda: SAPA,
        variants=({}, dict(embedding_dim=64), dict(norm="group")),
    ),
    "FADE": UpsampleType(
        "reassembles by kernels predicted from guide and map, and mixes the guide in by a gate",
        "2207.10392",
        lambda: FADE,
        variants=({}, dict(lite=True), dict(gate=False)),
    ),
}
"""Every type that ``upsample_cfg`` knows, beside what a user registers."""


def build_upsample(
    cfg: dict,
    channels: int,
    scale_factor: int,
    registry: Registry = MODELS,
    guide_channels: int | None = None,
    component: str = "this component",
) -> nn.Module:
    """Build the upsampler that an ``upsample_cfg`` selects.

    Args:
        cfg (dict): ``type`` and any of the type's own arguments; the ``mode`` and ``align_corners`` of an
            interpolation are left out where the type does not take them. Types: those of :data:`TYPES`, or
            any registered module that takes ``channels`` and ``scale_factor``, and ``guide_channels`` if it
            is ``guided``.
        channels (int): channels of the maps to upsample; the output has as many.
        scale_factor (int): how many times larger the output is.
        registry (Registry): where other types are looked up, after the registry of the default scope, which
            may be a project's own. Default: mmengine's root ``MODELS``.
        guide_channels (int, optional): channels of the guide, the finer map that the result joins.
            Default: None, there is no guide.
        component (str): whose upsampler it is, for messages.

    Returns:
        nn.Module: maps Tensor[N, channels, H, W] to Tensor[N, channels, scale_factor * H, scale_factor * W];
        a guided one takes the guide, Tensor[N, guide_channels, scale_factor * H, scale_factor * W], too.

    Raises:
        UpsampleConfigError: a ValueError; the type is unknown, does not take the arguments, or needs a guide
            where there is none.

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
            f"upsample_cfg type {kind!r}: {component} upsamples by {scale_factor}; leave scale_factor out"
        )
    if getattr(module, "downsamples", False):
        raise UpsampleConfigError(
            f"upsample_cfg type {kind!r} makes maps smaller; it is for a downsample_cfg"
        )
    known = TYPES.get(kind) if isinstance(kind, str) else None
    fixed = known.fixed if known else ()
    takes = inspect.signature(module).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    for name, values in _INTERPOLATION.items():
        refused = name in fixed or not (name in takes or takes_any)
        if refused and name in cfg and cfg[name] in values:
            del cfg[name]
        elif name in cfg and name in fixed:
            raise UpsampleConfigError(f"upsample_cfg type {kind!r}: {name}={cfg[name]!r} is not known")
    if known and known.arguments:
        defaults = known.arguments(channels, scale_factor, cfg)
    else:
        defaults = dict(channels=channels, scale_factor=scale_factor)
    if getattr(module, "guided", False):
        if guide_channels is None:
            unguided = ", ".join(name for name, row in TYPES.items() if not row.guided)
            raise UpsampleConfigError(
                f"upsample_cfg type {kind!r} needs a guide, a finer map that its result joins, which "
                f"{component} does not have; types that work there: {unguided}"
            )
        defaults["guide_channels"] = guide_channels
    return construct(f"upsample_cfg type {kind!r}", module, {**defaults, **cfg}, UpsampleConfigError)


def construct(what: str, module: Callable, arguments: dict, config_error: type[InputError]) -> nn.Module:
    """Return a module of some arguments; ``config_error`` names ``what`` and says which it takes."""
    takes = inspect.signature(module)
    try:
        takes.bind(**arguments)
        return module(**arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise config_error(f"{what}: {error}; it takes {', '.join(takes.parameters)}") from error


def _lookup(kind: Any, registry: Registry) -> tuple[Any, Callable]:
    """Return a type by its own name, whether it was given with a scope or as a class, and what builds it."""
    import mmcv.cnn  # noqa: F401  registers nearest, bilinear and deconv; the layers themselves do not need mmcv

    # a project's own registry is that of its default scope
    with registry.switch_scope_and_registry(None) as scoped:
        built_in = {name: scoped.get(name) or registry.get(name) for name in TYPES}
        if isinstance(kind, str):
            module = scoped.get(kind) or registry.get(kind)
            names = [kind.rpartition(".")[2]]
        else:
            module = kind
            names = [name for name in built_in if kind is not nn.Upsample]  # that is nearest and bilinear
    kind = next((name for name in names if name in built_in and built_in[name] is module), kind)
    if isinstance(kind, str) and kind in TYPES and (ours := TYPES[kind].module):
        module = ours()
    if not callable(module):
        close = get_close_matches(str(kind), TYPES, n=1, cutoff=0.5)
        raise UpsampleConfigError(
            f"upsample_cfg type {kind!r} is not known"
            + (f"; did you mean {close[0]!r}?" if close else ".")
            + f" Known types: {', '.join(TYPES)}, and any module registered in MODELS that takes "
            "channels and scale_factor"
        )
    return kind, module
