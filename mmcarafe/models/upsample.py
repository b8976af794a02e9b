# SPDX-License-Identifier: Apache-2.0
"""How a component of mmdet takes another upsampler without a copy of its ``forward``."""

import inspect
from collections.abc import Callable, Iterable

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmcarafe.layers import build_upsample


def crop_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut an upsampled map to an odd target (26 -> 25) at the bottom and right.

    Args:
        x (Tensor[N, C, H, W]): upsampled map.
        size (tuple[int, int]): height and width wanted, at most (H, W).

    Raises:
        ValueError: the target is larger than the map.
    """
    height, width = size
    if height > x.shape[2] or width > x.shape[3]:
        raise ValueError(
            f"upsampled map is {tuple(x.shape[2:])} but the target is {(height, width)}: "
            "the target may not be larger than scale_factor times the source"
        )
    return x[:, :, :height, :width]


class InterpolateWith(TorchFunctionMode):
    """While active, each ``F.interpolate(x, size=...)`` runs the next of ``modules`` and crops to ``size``.

    mmdet's necks call ``F.interpolate`` in the middle of their ``forward``. Answering those calls, through
    torch's own protocol for overriding its functions, leaves the rest of ``forward`` to mmdet. Calls made
    inside a module are not answered (torch deactivates a mode while it handles a call).

    Args:
        modules (iterable of nn.Module): upsamplers in the order in which ``forward`` interpolates.

    Raises:
        RuntimeError: there were more or fewer calls than modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.modules = list(modules)
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.interpolate:
            return func(*args, **kwargs)
        self.calls += 1
        if self.calls > len(self.modules):
            raise RuntimeError(f"forward interpolates more often than its {len(self.modules)} upsamplers")
        x = self.modules[self.calls - 1](args[0])
        size = args[1] if len(args) > 1 else kwargs.get("size")
        return x if size is None else crop_to(x, size)

    def __exit__(self, exc_type, exc_value, traceback):
        super().__exit__(exc_type, exc_value, traceback)
        if exc_type is None and self.calls < len(self.modules):
            raise RuntimeError(f"forward used {self.calls} of its {len(self.modules)} upsamplers")


def by_name(constructor: Callable, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Arguments of a bound constructor, positional ones by name as far as it names them."""
    parameters = inspect.signature(constructor).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(names):  # goes on to a parent, in the order given
        return args, kwargs
    return (), {**dict(zip(names, args, strict=False)), **kwargs}


class SelectUpsample:
    """Mixin in front of an mmdet neck that upsamples with ``F.interpolate``.

    Without a ``type`` in ``upsample_cfg`` the neck is mmdet's own. With one, ``upsample_modules`` holds an
    upsampler from :func:`mmcarafe.layers.build_upsample` for each step; a neck states ``upsample_channels``.
    """

    def __init__(self, *args, **kwargs) -> None:
        args, kwargs = by_name(super().__init__, args, kwargs)
        upsample_cfg = dict(kwargs.pop("upsample_cfg", None) or dict(mode="nearest"))
        selected = upsample_cfg.get("type") is not None
        plain = {name: value for name, value in upsample_cfg.items() if name != "type"}
        super().__init__(*args, upsample_cfg=dict(mode="nearest") if selected else plain, **kwargs)
        self.upsample_modules = ModuleList(
            build_upsample(upsample_cfg, channels, 2, MODELS)
            for channels in (self.upsample_channels() if selected else [])
        )

    def upsample_channels(self) -> list[int]:
        """Channels of each upsampler; module i upsamples level i + 1 to the size of level i."""
        raise NotImplementedError

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """mmdet's forward, with the selected upsamplers from the top level down."""
        if len(self.upsample_modules) == 0:
            return super().forward(inputs)
        with InterpolateWith(reversed(self.upsample_modules)):
            return super().forward(inputs)
