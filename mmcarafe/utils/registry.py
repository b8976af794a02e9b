# SPDX-License-Identifier: Apache-2.0
"""Configs that give classes instead of names: a library's classes are replaced there as they are by name.

The library is mmdet or mmsegmentation. Pure-Python configs of mmengine (``read_base``) have ``type=FPN``, the
class, for which no registry is asked, and ``type="mmdet.models.FPN"``, where it is, once they are dumped.
"""

from collections.abc import Callable
from functools import wraps
from types import ModuleType

from mmengine import registry as mmengine_registry
from mmengine.config import Config
from mmengine.registry import Registry
from torch import nn

from mmcarafe.errors import DownsampleConfigError, UpsampleConfigError
from mmcarafe.layers import TYPES
from mmcarafe.selecting.select_upsample import name_of, registry_of, takes

LIBRARIES: list[ModuleType] = []
"""The modules of registries of the libraries in use: ``mmdet.registry``, ``mmseg.registry``."""

REGISTRIES = ("MODELS", "HOOKS", "TRANSFORMS", "DATASETS", "METRICS", "OPTIM_WRAPPERS")
"""The registries in which this package's classes have names of a library's or mmengine's."""


OWNERS = ("mmdet.", "mmseg.", "mmcarafe.")


def successor(kind: type) -> type | None:
    """Return the class of this package that has taken over a class's name, or None.

    Example:
        >>> from mmdet.models import FPN, SwinTransformer
        >>> from mmcarafe.utils.registry import successor
        >>> successor(FPN), successor(SwinTransformer)
        (<class 'mmcarafe.models.necks.FPN'>, None)
    """
    for library in LIBRARIES:
        for name in REGISTRIES:
            ours = getattr(library, name).module_dict.get(kind.__name__)
            derived = isinstance(ours, type) and ours is not kind and issubclass(ours, kind)
            if derived and ours.__module__.startswith("mmcarafe."):
                return ours
    return None


def with_successors(cfg: object, registry: Registry) -> object:
    """Replace the class that a config gives, or each of a list of configs, by its successor.

    Raises:
        UpsampleConfigError: the config selects an upsampler for a class that takes none, or that derives from
            one with a successor, which would be needed for it.
        DownsampleConfigError: it selects a downsampler for a class that takes none.
    """
    if isinstance(cfg, list):
        return [with_successors(part, registry) for part in cfg]
    kind = cfg.get("type") if isinstance(cfg, dict | Config) else None
    given = _built(cfg, registry) if isinstance(kind, str) and "." in kind else kind
    if isinstance(given, type) and (ours := successor(given)):
        cfg = cfg.copy()
        cfg["type"] = kind = ours
    if kind and isinstance(cfg.get("downsample_cfg"), dict):
        _check_takes_downsampler(_built(cfg, registry))
    for selected, place in _selected(cfg) if kind else ():
        built = _built(cfg, registry)
        if place is cfg:
            _check_takes(built)
        _check_parent(built, selected)
    return cfg


def class_of(kind: object, registry: Registry) -> object:
    """Return what a type in a config stands for in a registry: a name, a class's path, or the class.

    None is returned where nothing has that name.

    Example:
        >>> from mmdet.registry import MODELS
        >>> from mmcarafe.utils.registry import class_of
        >>> class_of("mmdet.models.SSDNeck", MODELS) is class_of("SSDNeck", MODELS)
        True
    """
    return registry.get(kind) if isinstance(kind, str) else kind


def _built(cfg: dict | Config, registry: Registry) -> object:
    with registry.switch_scope_and_registry(cfg.get("_scope_")) as scoped:
        return class_of(cfg["type"], scoped)


def upsampling_components(models: Registry) -> list[str]:
    """List the names of this package's components, in whose configs ``upsample_cfg`` selects an upsampler."""
    return _ours(models, "replaces")


def _ours(models: Registry, attribute: str) -> list[str]:
    return sorted(
        name
        for name, kind in models.module_dict.items()
        if kind.__module__.startswith("mmcarafe.") and hasattr(kind, attribute)
    )


def _selected(cfg: dict | Config) -> list[tuple[str, dict]]:
    """Return types of upsamplers that a config selects for its component, or an unregistered part of it.

    With each comes the component's config, or that of the part.
    """
    parts = [cfg, *(part for part in cfg.values() if isinstance(part, dict) and "type" not in part)]
    cfgs = [(part.get("upsample_cfg"), part) for part in parts]
    return [(c["type"], part) for c, part in cfgs if isinstance(c, dict) and c.get("type") is not None]


def _check_takes(kind: object) -> None:
    """Refuse an upsampler in a component that takes none: a library's would end in a trace, or ignore it."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return
    if part := getattr(kind, "upsampling_part", ""):
        raise UpsampleConfigError(f"{kind.__name__}: put upsample_cfg into its {part}, which upsamples")
    a_users = not kind.__module__.startswith(OWNERS)
    derived = takes(kind, "upsample_cfg") or any(map(successor, kind.__mro__))
    if hasattr(kind, "replaces") or (a_users and derived):
        return
    if those := upsampling_components(registry_of(kind)):
        reason = "it does not upsample, or not by a step that can be replaced"
        if a_users:
            room = _room(registry_of(kind).get(those[0]))
            reason = (
                f"derive it from a class of {room}, or let its constructor take an upsample_cfg, for "
                "build_upsample of mmcarafe.layers"
            )
        raise UpsampleConfigError(
            f"{kind.__name__} takes no upsample_cfg with a type: {reason}; these do: {', '.join(those)}"
        )


def _check_takes_downsampler(kind: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or getattr(kind, "strided", ()):
        return
    if kind.__module__.startswith(OWNERS) or not takes(kind, "downsample_cfg"):
        those = _ours(registry_of(kind), "strided") or ["none of its library"]
        raise DownsampleConfigError(f"{kind.__name__} takes no downsample_cfg; these do: {', '.join(those)}")


def _check_parent(kind: object, selected: str) -> None:
    parents = kind.__mro__ if isinstance(kind, type) else ()
    parent = next(filter(successor, parents), None)  # the nearest: mmdet's PAFPN derives from its FPN
    ours = parent and successor(parent)
    if not hasattr(ours, "replaces"):
        return
    name, theirs = name_of(selected), getattr(ours, "host_types", ())
    builds = name in theirs or (getattr(ours, "host_builds", False) and name not in TYPES)
    if not issubclass(kind, ours) and not builds:
        library = parent.__module__.partition(".")[0]
        raise UpsampleConfigError(
            f"{kind.__name__} derives from {library}'s {parent.__name__}, which has no upsampler of type "
            f"{selected!r}: derive it from {_room(ours)}.{parent.__name__}, which has them all"
        )


def _room(kind: type) -> str:
    """Return the package that users import a class of this package from."""
    return ".".join(kind.__module__.split(".")[:2])


def replace_given_classes(library: ModuleType) -> None:
    """Let a library's and mmengine's registries build successors of the classes that configs give.

    Args:
        library (module): ``mmdet.registry`` or ``mmseg.registry``, in which they are registered.
    """
    modules = [library] if LIBRARIES else [mmengine_registry, library]
    LIBRARIES.append(library)
    for module in modules:
        for name in REGISTRIES:
            registry = getattr(module, name)
            registry.build_func = _building_successors(registry.build_func)


def _building_successors(build: Callable) -> Callable:
    @wraps(build)
    def build_func(cfg, *args, registry: Registry, **kwargs):
        built = build(with_successors(cfg, registry), *args, registry=registry, **kwargs)
        if check := getattr(getattr(built, "pixel_decoder", None), "check_head", None):
            check(built)
        return built

    return build_func
