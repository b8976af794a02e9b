# SPDX-License-Identifier: Apache-2.0
"""From ``upsample_cfg`` to a module."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from torch import nn

from mmcarafe.errors import InputError, UpsampleConfigError

from .optional_mmengine import MODELS
from .upsample_types import INTERPOLATION, TYPES

if TYPE_CHECKING:
    from mmengine.registry import Registry


OWNERS = ("mmcarafe.", "mmcv.", "torch.")
"""Packages whose classes are the built-in types, and say what is wrong with a config."""


def as_dict(cfg: Any, argument: str = "upsample_cfg", error: type[InputError] = UpsampleConfigError) -> dict:
    """Return a copy of what selects an upsampler; raise ``error`` where it is no dict, but a type's name."""
    if not isinstance(cfg, Mapping):
        raise error(f"{argument}: expected a dict with a type, for instance dict(type='CARAFE'), got {cfg!r}")
    # mmengine leaves _delete_ in where the base config has no such dict
    return {key: value for key, value in cfg.items() if key != "_delete_"}


def build_upsample(
    cfg: dict,
    channels: int,
    scale_factor: int,
    registry: "Registry | None" = MODELS,
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
        registry (Registry, optional): where other types are looked up, after the registry of the default
            scope, which may be a project's own. Default: mmengine's root ``MODELS``, or None where mmengine
            is not installed: the types are then those of this package's own layers.
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
    cfg = as_dict(cfg)
    kind = cfg.pop("type", None)
    kind, module = _own_layer(kind, "mmengine") if registry is None else _lookup(kind, registry)
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
    for name, values in INTERPOLATION.items():
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
    """Return a module of some arguments; ``config_error`` names ``what`` and says which it takes.

    What is raised in a user's code is a fault in it, whose trace is wanted.
    """
    takes = inspect.signature(module)
    try:
        takes.bind(**arguments)
    except TypeError as error:
        raise config_error(f"{what}: {error}; it takes {', '.join(takes.parameters)}") from error
    try:
        return module(**arguments)
    except (TypeError, ValueError, KeyError) as error:
        *_, (frame, _) = walk_tb(error.__traceback__)
        if not frame.f_globals["__name__"].startswith(OWNERS):
            raise
        raise config_error(f"{what}: {error}; it takes {', '.join(takes.parameters)}") from error


def _own_layer(kind: Any, missing: str) -> tuple[Any, Callable]:
    """Return a type and what builds it where there is no mmengine or mmcv, which have the other types."""
    if not isinstance(kind, str):
        return kind, kind
    own = {name: row.module for name, row in TYPES.items() if row.module and not row.arguments}
    if kind not in own:
        raise UpsampleConfigError(
            f"upsample_cfg type {kind!r}: expected a class or one of {', '.join(own)}, as {missing} is "
            "not installed; the other types need mmengine and mmcv"
        )
    return kind, own[kind]()


def _lookup(kind: Any, registry: "Registry") -> tuple[Any, Callable]:
    """Return a type by its own name, whether it was given with a scope or as a class, and what builds it."""
    try:
        import mmcv.cnn  # noqa: F401  registers nearest, bilinear and deconv; the layers do not need mmcv
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mmcv":
            raise
        if isinstance(kind, str) and kind in TYPES:
            return _own_layer(kind, "mmcv")

    built_in = {name: MODELS.get(name) for name in TYPES}
    # a project's own registry is that of its default scope
    with registry.switch_scope_and_registry(None) as scoped:
        if isinstance(kind, str):
            module = scoped.get(kind) or registry.get(kind)
            names = [kind.rpartition(".")[2]]
        else:
            module = kind
            names = [name for name in built_in if kind is not nn.Upsample]  # that is nearest and bilinear
    own = next((name for name in names if name in built_in and built_in[name] is module), None)
    if own and not getattr(module, "__module__", "mmcarafe.").startswith(OWNERS):  # a user's in place of ours
        own, kind = None, module
    if own:
        kind, module = own, TYPES[own].module() if TYPES[own].module else module
    elif isinstance(kind, str) and kind in TYPES:  # a user's class of that name
        kind = module
    if not callable(module):
        close = get_close_matches(str(kind), TYPES, n=1, cutoff=0.5)
        raise UpsampleConfigError(
            f"upsample_cfg type {kind!r} is not known"
            + (f"; did you mean {close[0]!r}?" if close else ".")
            + f" Known types: {', '.join(TYPES)}, and any module registered in MODELS that takes "
            "channels and scale_factor"
        )
    return kind, module
