# SPDX-License-Identifier: Apache-2.0
"""How a component takes another upsampler without a copy of its ``forward``.

The host, of which the component is, is mmdet or mmsegmentation.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import NamedTuple

from mmengine.model import ModuleList, PretrainedInit
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS, Registry
from torch import Tensor, nn

from mmcarafe.layers import UpsampleConfigError, build_upsample
from mmcarafe.layers.build_upsample import as_dict

from .interpolate import Answer, InterpolateWith, KeepOutput


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


def init_weights(component: nn.Module, as_host: Callable[[], None], layers: Iterable[nn.Module]) -> None:
    """Initialise a component as its host does, and the layers put into it as they say themselves.

    After the host, which initialises every convolution; where it loads pretrained weights, before, as these
    may hold the layers'. The second time nothing happens, as in mmengine.
    """
    fresh = not getattr(component, "is_init", False)
    loads = is_pretrained(getattr(component, "init_cfg", None))
    own = [layer.init_weights for layer in layers if hasattr(layer, "init_weights")]
    for step in (*own, as_host) if loads else (as_host, *own):
        if fresh or step is as_host:
            step()


def takes(component: type, setting: str) -> bool:
    """Tell whether a class's constructor names an argument, or hands it on to a parent that does."""
    for owner in component.__mro__:
        if owner is nn.Module:
            break
        parameters = inspect.signature(owner.__init__).parameters
        if setting in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return False


def registry_of(component: type) -> Registry:
    """Return the registry of the project that a component is of, for types of upsamplers of its users."""
    projects = (kind.__module__.partition(".")[0] for kind in component.__mro__)
    return next((MODELS.children[name] for name in projects if name in MODELS.children), MODELS)


def name_of(kind: str | type) -> str:
    """Return the name of a type, which a config gives by name, with a scope before it, or as the class."""
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def selection(cfg: dict | None, component: type) -> tuple[dict, dict]:
    """Split an ``upsample_cfg``: what selects an upsampler, or what the host's own interpolation takes.

    Raises:
        UpsampleConfigError: it is no dict, or it says how to interpolate and the host's component does so in
            a fixed way.
    """
    cfg = as_dict(cfg or {})
    if cfg.get("type") is not None:
        return cfg, {}
    interpolation = {name: value for name, value in cfg.items() if name != "type"}
    if interpolation and not takes(component, "upsample_cfg"):
        raise UpsampleConfigError(
            f"{component.__name__} upsamples in a fixed way: expected an upsample_cfg with a "
            f"type, for instance dict(type='CARAFE'), got {cfg}"
        )
    return {}, interpolation


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
    pooled: bool = False
    """Say whether the map holds cells of a pooling pyramid, which are interpolated, and upsampled last."""

    def build(self, cfg: dict, component: str, registry: Registry) -> nn.Module:
        """Build the upsampler that ``cfg`` selects for this step."""
        guide = None if self.guide is None else self.guide_channels or self.channels
        if self.pooled:
            component = f"the pooling pyramid of {component}"
        return build_upsample(cfg, self.channels, self.scale, registry, guide, component)


def is_guided(upsample: nn.Module) -> bool:
    """Tell whether an upsampler takes a guide."""
    return getattr(upsample, "guided", False)


class InitUpsamplers:
    """Mixin in front of a host's component that keeps its upsamplers in ``upsample_modules``."""

    replaces = ""
    """What a selected upsampler stands in for, in words; the table of docs/components.md is made of these."""

    guide = ""
    """Which map guides a guided type, in words; empty where there is none. In the same table."""

    host_types: tuple[str, ...] = ()
    """Types that the parent knows itself."""

    host_builds = False
    """Say whether it builds any registered type, not these alone."""

    upsampling_part = ""
    """The argument whose config takes ``upsample_cfg``, if the component's own does not."""

    def init_weights(self) -> None:
        """Initialise as the host does, and the upsamplers as they say themselves."""
        as_host = getattr(super(), "init_weights", lambda: None)  # of a module that is not mmengine's
        init_weights(self, as_host, self.upsample_modules)


class SelectUpsample(InitUpsamplers):
    """Mixin in front of a host's component whose ``forward`` upsamples with ``F.interpolate``.

    Without a ``type`` in ``upsample_cfg`` the component is the host's own. With one, ``upsample_modules``
    holds an upsampler from :func:`mmcarafe.layers.build_upsample` for each step of ``upsample_steps``, which
    is all that a component has to state.
    """

    component = ""
    """What messages call it, if not by the name of its class: a part of a component names that."""

    any_size = False
    """Say whether sizes that the scale does not reach are left to the host's interpolation, not refused."""

    def __init__(self, *args, **kwargs) -> None:
        args, kwargs = by_name(super().__init__, args, kwargs)
        cfg, interpolation = selection(kwargs.pop("upsample_cfg", None), type(self))
        if interpolation:
            kwargs["upsample_cfg"] = interpolation
        super().__init__(*args, **kwargs)
        self._steps = self.upsample_steps() if cfg else []
        component = self.component or type(self).__name__
        steps = {step.module: step for step in self._steps if step}  # a module may serve several
        registry = registry_of(type(self))
        built = {
            i: step.build(cfg, component, registry) for i, step in steps.items()
        }  # in the order of forward
        self.upsample_modules = ModuleList(built[i] for i in range(len(built)))
        if cfg and not built:
            raise UpsampleConfigError(
                f"{component}: upsample_cfg {cfg} has no effect, as with these arguments it does not upsample"
            )
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

    def steps_of(self, levels: Sequence[Tensor]) -> list[Step | None]:
        """Return the steps of one call, if their number depends on that of its levels."""
        return self._steps

    def forward(self, *args, **kwargs):
        """Run the host's forward with the selected upsamplers; a subclass's own may call it."""
        with self.answering(args[0] if args else next(iter(kwargs.values()))):
            return super().forward(*args, **kwargs)

    def answering(self, levels: Sequence[Tensor]) -> AbstractContextManager:
        """Return the context in which the selected upsamplers answer, if there are any."""
        if len(self.upsample_modules) == 0:
            return nullcontext()
        steps = [step and self._call(step, levels) for step in self.steps_of(levels)]
        return InterpolateWith(steps, self._guides.values())

    def _call(self, step: Step, levels: Sequence[Tensor]) -> Answer:
        """Return what a step runs."""
        upsample, guide = self.upsample_modules[step.module], None
        if is_guided(upsample):
            kept = isinstance(step.guide, str)
            guide = self._guides[step.guide].get if kept else partial(levels.__getitem__, step.guide)
        return Answer(upsample, step.scale, guide, self.any_size, step.pooled)

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        theirs = getattr(super(), "forward", None)
        if theirs is not None and cls.forward is SelectUpsample.forward:

            @wraps(theirs)  # torch.export reads the names of the parameters
            def forward(self, *args, **kwargs):
                return SelectUpsample.forward(self, *args, **kwargs)

            cls.forward = forward


class SelectTopDown(SelectUpsample):
    """Mixin: ``upsample_modules[i]`` upsamples lateral i + 1 to the size of lateral i."""

    replaces = "nearest-neighbour steps of the top-down path"
    guide = "the lateral below"

    def upsample_steps(self) -> list[Step | None]:
        """State one step between each two neighbouring laterals."""
        levels = reversed(range(len(self.lateral_convs) - 1))
        return [Step(level, self.out_channels, 2, f"lateral_convs.{level}") for level in levels]
