# SPDX-License-Identifier: Apache-2.0
"""How a component of mmdet takes another upsampler without a copy of its ``forward``."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from typing import NamedTuple

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import ModuleList, PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmcarafe.layers import UpsampleConfigError, build_upsample


def upsample_to(
    upsample: nn.Module, scale: int, x: Tensor, size: tuple[int, int], guide: Tensor | None = None
) -> Tensor:
    """Upsample a map to the size of the finer level that it joins.

    Args:
        upsample (nn.Module): maps Tensor[N, C, H, W] to Tensor[N, C, scale * H, scale * W].
        scale (int): its scale factor.
        x (Tensor[N, C, H, W]): the coarser level.
        size (tuple[int, int]): height and width of the finer level.
        guide (Tensor[N, G, *size], optional): what a guided upsampler takes beside ``x``, padded to
            the size of its output.

    Returns:
        Tensor[N, C, *size]: upsampled, and cropped at the bottom and right where the finer level is odd (26
        to 25). ``x`` itself where it has that size already: some backbones have stages of one resolution.

    Raises:
        ValueError: the levels are of any other sizes; the message names both.
    """
    source, size = tuple(x.shape[2:]), tuple(size)
    if must_upsample(source, scale, size):
        return with_guide(upsample, scale, x, guide)[:, :, : size[0], : size[1]]
    # a gradient of zero for each parameter: distributed training waits for all of them
    return sum((p.flatten()[:0].sum() for p in upsample.parameters()), start=x)


def with_guide(upsample: nn.Module, scale: int, x: Tensor, guide: Tensor | None) -> Tensor:
    """Upsample a map, together with its guide where there is one."""
    return upsample(x) if guide is None else upsample(x, pad_guide(guide, scale, x))


def pad_guide(guide: Tensor, scale: int, x: Tensor) -> Tensor:
    """Pad a guide with its border to ``scale`` times the size of ``x``.

    A finer level of odd size (25 above 13) is that much smaller than the result, which is cropped later.
    """
    missing = [scale * n - m for n, m in zip(x.shape[2:], guide.shape[2:], strict=True)]
    return F.pad(guide, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else guide


def must_upsample(source: tuple[int, int], scale: int, size: tuple[int, int]) -> bool:
    """Tell whether a level has to be upsampled to reach a size, rather than having it already.

    Raises:
        ValueError: it has another size, and upsampling it by ``scale`` does not give this one either.

    Example:
        >>> must_upsample((13, 20), 2, (25, 40)), must_upsample((13, 20), 2, (13, 20))
        (True, False)
    """
    if all(scale * (n - 1) < wanted <= scale * n for n, wanted in zip(source, size, strict=True)):
        return True
    if source == size:
        return False
    expected = " x ".join(f"{scale * (n - 1) + 1}..{scale * n}" for n in source)
    raise ValueError(
        f"a level of {source[0]} x {source[1]} cannot be upsampled by {scale} to {size[0]} x {size[1]}: "
        f"expected a finer level of {expected}, or of the same size; change its strides or pad images"
    )


class KeepOutput:
    """Forward hook that keeps what a submodule returns, to guide an upsampler, while it is active.

    The hook itself stays: ``torch.compile(fullgraph=True)`` takes none that ``forward`` adds.
    """

    def __init__(self) -> None:
        self.active = False
        self.output: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        """Keep the output."""
        if self.active:
            self.output = output

    def activate(self, active: bool) -> None:
        """Start to keep outputs, or stop and forget."""
        self.active, self.output = active, None

    def get(self) -> Tensor | None:
        """Return what was kept last."""
        return self.output

    def give(self, upsample: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add what was kept to the input of an upsampler, as its forward pre-hook."""
        return (*args, pad_guide(self.output, upsample.scale_factor, *args)) if self.active else args


class InterpolateWith(TorchFunctionMode):
    """While active, each ``F.interpolate(x, size=...)`` runs the next upsampler, as :func:`upsample_to` does.

    mmdet's components call ``F.interpolate``, or ``nn.Upsample`` that does, in the middle of their
    ``forward``. Answering those calls, through torch's own protocol for overriding its functions, leaves the
    rest of ``forward`` to mmdet. Calls made inside a module are not answered (torch deactivates a mode while
    it handles a call).

    Args:
        steps (iterable of (nn.Module, int[, callable]) or None): upsamplers, their scale factors and, of
            guided ones, what returns the guide, in the order in which ``forward`` interpolates; None leaves
            that call to torch.
        guides (iterable of KeepOutput): hooks to activate meanwhile.

    Raises:
        RuntimeError: there were more or fewer calls than steps.
        ValueError: as :func:`upsample_to`.
    """

    def __init__(self, steps: Iterable[tuple | None], guides: Iterable[KeepOutput] = ()) -> None:
        super().__init__()
        self.steps = list(steps)
        self.guides = list(guides)
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.interpolate:
            return func(*args, **kwargs)
        self.calls += 1
        if self.calls > len(self.steps):
            raise RuntimeError(f"forward interpolates more often than its {len(self.steps)} upsamplers")
        step = self.steps[self.calls - 1]
        if step is None:
            return func(*args, **kwargs)
        upsample, scale, *guided = step
        guide = guided[0]() if guided else None
        size = args[1] if len(args) > 1 else kwargs.get("size")
        if size is None:
            return with_guide(upsample, scale, args[0], guide)
        return upsample_to(upsample, scale, args[0], size, guide)

    def __enter__(self):
        for guide in self.guides:
            guide.activate(True)
        return super().__enter__()

    def __exit__(self, exc_type, exc_value, traceback):
        super().__exit__(exc_type, exc_value, traceback)
        for guide in self.guides:
            guide.activate(False)
        if exc_type is None and self.calls < len(self.steps):
            raise RuntimeError(f"forward used {self.calls} of its {len(self.steps)} upsamplers")


def by_name(constructor: Callable, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Return the arguments of a bound constructor, positional ones by name as far as it names them."""
    parameters = inspect.signature(constructor).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(names):  # goes on to a parent, in the order given
        return args, kwargs
    return (), {**dict(zip(names, args, strict=False)), **kwargs}


def is_pretrained(init_cfg: dict | list | None) -> bool:
    """Tell whether an initialisation loads weights from a file."""
    cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    kinds = (cfg["type"] for cfg in cfgs)
    return any(
        (WEIGHT_INITIALIZERS.get(kind) if isinstance(kind, str) else kind) is PretrainedInit for kind in kinds
    )


def takes_upsample_cfg(component: type) -> bool:
    """Tell whether a constructor of mmdet's names ``upsample_cfg``, or hands it on to a parent that does."""
    for owner in component.__mro__:
        if owner is nn.Module:
            break
        parameters = inspect.signature(owner.__init__).parameters
        if "upsample_cfg" in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return False


class Step(NamedTuple):
    """One interpolation of a ``forward`` that a selected upsampler takes over."""

    module: int
    """Index of the upsampler in ``upsample_modules``."""
    channels: int
    scale: int
    guide: str | int | None = None
    """The finer map that the result joins: the submodule whose output it is, by name, or the index of an
    input level. None: there is none, and no guided type can be selected."""
    guide_channels: int | None = None
    """Its channels, if not ``channels``."""

    def build(self, cfg: dict, component: str) -> nn.Module:
        """Build the upsampler that ``cfg`` selects for this step."""
        guide = None if self.guide is None else self.guide_channels or self.channels
        return build_upsample(cfg, self.channels, self.scale, MODELS, guide, component)


def is_guided(upsample: nn.Module) -> bool:
    """Tell whether an upsampler takes a guide."""
    return getattr(upsample, "guided", False)


class InitUpsamplers:
    """Mixin in front of an mmdet component that keeps its upsamplers in ``upsample_modules``."""

    replaces = ""
    """What a selected upsampler stands in for, in words; the table of docs/components.md is made of these."""

    guide = ""
    """Which map guides a guided type, in words; empty where there is none. In the same table."""

    def init_weights(self) -> None:
        """Initialise as mmdet does, then restore the upsamplers' own initialisation.

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

    component = ""
    """What messages call it, if not by the name of its class: a part of a component names that."""

    mmdet_types: tuple[str, ...] = ()
    """Types that mmdet's own class knows."""

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
        self._steps = self.upsample_steps() if selected else []
        component = self.component or type(self).__name__
        built = {step.module: step.build(cfg, component) for step in self._steps if step}
        self.upsample_modules = ModuleList(built[i] for i in range(len(built)))
        self._guides = {}
        if any(map(is_guided, self.upsample_modules)):
            self._guides = {s.guide: KeepOutput() for s in self._steps if s and isinstance(s.guide, str)}
            for name, hook in self._guides.items():
                self.get_submodule(name).register_forward_hook(hook)

    def upsample_steps(self) -> list[Step | None]:
        """State each interpolation, in the order of ``forward``.

        None stands for one that does not enlarge its input, or not that of a feature map.
        """
        raise NotImplementedError

    def forward(self, *args, **kwargs):
        """Run mmdet's forward with the selected upsamplers; a subclass's own may call it."""
        if len(self.upsample_modules) == 0:
            return super().forward(*args, **kwargs)
        levels = args[0] if args else next(iter(kwargs.values()))
        steps = [step and self._call(step, levels) for step in self._steps]
        with InterpolateWith(steps, self._guides.values()):
            return super().forward(*args, **kwargs)

    def _call(self, step: Step, levels: Sequence[Tensor]) -> tuple:
        """Return what a step runs: upsampler, scale factor, and what returns a guided one's guide."""
        upsample = self.upsample_modules[step.module]
        if not is_guided(upsample):
            return upsample, step.scale
        if isinstance(step.guide, str):
            return upsample, step.scale, self._guides[step.guide].get
        return upsample, step.scale, partial(levels.__getitem__, step.guide)

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        theirs = getattr(super(), "forward", None)
        if theirs is not None and cls.forward is SelectUpsample.forward:

            @wraps(theirs)  # torch.export reads the names of the parameters
            def forward(self, *args, **kwargs):
                return SelectUpsample.forward(self, *args, **kwargs)

            cls.forward = forward
