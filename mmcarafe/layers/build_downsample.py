# SPDX-License-Identifier: Apache-2.0
"""From ``downsample_cfg`` to a module."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import nn

from mmcarafe.errors import DownsampleConfigError

from .build_upsample import as_dict, construct
from .carafe_downsample import CARAFEDownsample
from .optional_mmengine import MODELS

if TYPE_CHECKING:
    from mmengine.registry import Registry

# as in upsample_cfg, mmcv's name too, under which it registers its upsampler
DOWNSAMPLE_TYPES: dict[str, Callable] = {"carafe": CARAFEDownsample, "CARAFE": CARAFEDownsample}
"""Every type that ``downsample_cfg`` knows, beside what a user registers."""


def build_downsample(
    cfg: dict,
    channels: int,
    scale_factor: int,
    registry: "Registry | None" = MODELS,
    component: str = "this component",
) -> nn.Module:
    """Build the downsampler that a ``downsample_cfg`` selects.

    Args:
        cfg (dict): ``type`` and any of the type's own arguments. Types: those of :data:`DOWNSAMPLE_TYPES`,
            where ``CARAFE`` is :class:`~mmcarafe.layers.CARAFEDownsample`, or any registered module that
            takes ``channels`` and ``scale_factor``.
        channels (int): channels of the maps to downsample; the output has as many.
        scale_factor (int): how many times smaller the output is, rounded up.
        registry (Registry, optional): where other types are looked up, after the registry of the default
            scope. Default: mmengine's root ``MODELS``, or None where mmengine is not installed.
        component (str): whose downsampler it is, for messages.

    Returns:
        nn.Module: maps Tensor[N, channels, H, W] to
        Tensor[N, channels, ceil(H / scale_factor), ceil(W / scale_factor)].

    Raises:
        DownsampleConfigError: a ValueError; the type is unknown, makes maps larger, or does not take the
            arguments.

    Example:
        >>> import torch
        >>> from mmcarafe.layers import build_downsample
        >>> downsample = build_downsample(dict(type="CARAFE", down_kernel=3), channels=16, scale_factor=2)
        >>> downsample(torch.rand(1, 16, 25, 24)).shape
        torch.Size([1, 16, 13, 12])
    """
    cfg = as_dict(cfg, "downsample_cfg", DownsampleConfigError)
    kind = cfg.pop("type", None)
    what = f"downsample_cfg type {kind!r}"
    module = DOWNSAMPLE_TYPES.get(kind) if isinstance(kind, str) else kind
    if isinstance(kind, str) and module is None and registry is not None:
        with registry.switch_scope_and_registry(None) as scoped:
            module = scoped.get(kind) or registry.get(kind)
    if not callable(module):
        close = get_close_matches(str(kind), DOWNSAMPLE_TYPES, n=1, cutoff=0.5)
        raise DownsampleConfigError(
            f"{what} is not known"
            + (f"; did you mean {close[0]!r}?" if close else ".")
            + f" Known types: {', '.join(DOWNSAMPLE_TYPES)}, and any module "
            + ("registered in MODELS " if registry is not None else "")
            + "that takes channels and scale_factor"
        )
    if getattr(module, "downsamples", None) is False:
        raise DownsampleConfigError(f"{what} makes maps larger; it is for an upsample_cfg")
    if cfg.pop("scale_factor", scale_factor) != scale_factor:
        raise DownsampleConfigError(
            f"{what}: {component} downsamples by {scale_factor}; leave scale_factor out"
        )
    arguments = dict(channels=channels, scale_factor=scale_factor) | cfg
    return construct(what, module, arguments, DownsampleConfigError)
