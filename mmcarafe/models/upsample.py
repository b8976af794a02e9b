# SPDX-License-Identifier: Apache-2.0
"""How a component of mmdet takes another upsampler without a copy of its ``forward``."""

import inspect
from collections.abc import Callable, Iterable
from functools import wraps

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import ModuleList, PretrainedInit
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmcarafe.layers import UpsampleConfigError, build_upsample


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

    mmdet's components call ``F.interpolate``, or ``nn.Upsample`` that does, in the middle of their
    ``forward``. Answering those calls, through torch's own protocol for overriding its functions, leaves the
    rest of ``forward`` to mmdet. Calls made inside a module are not answered (torch deactivates a mode while
    it handles a call).

    Args:
        modules (iterable of nn.Module or None): upsamplers in the order in which ``forward`` interpolates;
            None leaves that call to torch.

    Raises:
        RuntimeError: there were more or fewer calls than modules.
    """

    def __init__(self, modules: Iterable[nn.Module | None]) -> None:
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
        module = self.modules[self.calls - 1]
        if module is None:
            return func(*args, **kwargs)
        x = module(args[0])
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


def is_pretrained(init_cfg: dict | list | None) -> bool:
    """Whether an initialisation loads weights from a file."""
    cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    return any(cfg["type"] in ("Pretrained", PretrainedInit) for cfg in cfgs)


def takes_upsample_cfg(component: type) -> bool:
    """Whether a constructor of mmdet's names ``upsample_cfg``, or hands it on to a parent that does."""
    for owner in component.__mro__:
        if owner is nn.Module:
            break
        parameters = inspect.signature(owner.__init__).parameters
        if "upsample_cfg" in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return False


class InitUpsamplers:
    """Mixin in front of an mmdet component that keeps its upsamplers in ``upsample_modules``."""

    def init_weights(self) -> None:
        """mmdet's initialisation, then each upsampler's own, which a parent may have painted over.

        Not where mmengine would leave weights alone: the second time, and after loading pretrained ones.
        """
        again = self.is_init
        super().init_weights()
        if again or is_pretrained(self.init_cfg):
            return
        for upsample in self.upsample_modules:
            if hasattr(upsample, "init_weights"):
                upsample.init_weights()


class SelectUpsample(InitUpsamplers):
    """Mixin in front of an mmdet component whose ``forward`` upsamples with ``F.interpolate``.

    Without a ``type`` in ``upsample_cfg`` the component is mmdet's own. With one, ``upsample_modules`` holds
    an upsampler from :func:`mmcarafe.layers.build_upsample` for each step of ``upsample_steps``, which is all
    that a component has to state.
    """

    replaces = ""
    """What a selected upsampler stands in for, in words; the README's table is made of these."""

    top_down = False
    """Whether ``forward`` begins with the last of ``upsample_modules``, so that module i makes level i."""

    def __init__(self, *args, **kwargs) -> None:
        constructor = super().__init__
        args, kwargs = by_name(constructor, args, kwargs)
        cfg = dict(kwargs.pop("upsample_cfg", None) or {})
        selected = cfg.get("type") is not None
        interpolation = {} if selected else {name: value for name, value in cfg.items() if name != "type"}
        if interpolation:
            if not takes_upsample_cfg(type(self)):
                raise UpsampleConfigError(
                    f"{type(self).__name__} interpolates in a fixed way: expected an upsample_cfg with a "
                    f"type, for instance dict(type='CARAFE'), got {cfg}"
                )
            kwargs["upsample_cfg"] = interpolation
        super().__init__(*args, **kwargs)
        steps = self.upsample_steps() if selected else []
        modules = [build_upsample(cfg, *step, MODELS) for step in steps if step is not None]
        self.upsample_modules = ModuleList(reversed(modules) if self.top_down else modules)
        order = iter(range(len(modules))[:: -1 if self.top_down else 1])
        self._calls = tuple(None if step is None else next(order) for step in steps)

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """Channels and scale factor of each interpolation, in the order of ``forward``.

        None stands for one that does not enlarge its input, or not that of a feature map.
        """
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        theirs = getattr(super(), "forward", None)
        if theirs is not None:  # a component, not another mixin

            @wraps(theirs)  # torch.export looks at the names of the parameters
            def forward(self, *args, **kwargs):
                return self._forward(*args, **kwargs)

            cls.forward = forward

    def _forward(self, *args, **kwargs):
        """mmdet's forward, with the selected upsamplers."""
        if len(self.upsample_modules) == 0:
            return super().forward(*args, **kwargs)
        with InterpolateWith(None if i is None else self.upsample_modules[i] for i in self._calls):
            return super().forward(*args, **kwargs)
