# SPDX-License-Identifier: Apache-2.0
"""Configs that give classes instead of names: mmdet's classes are replaced there as they are by name.

Pure-Python configs of mmengine (``read_base``) have ``type=FPN``, the class, for which no registry is asked.
"""

from collections.abc import Callable
from functools import wraps

from mmdet import registry as mmdet_registry
from mmengine import registry as mmengine_registry
from mmengine.config import Config
from mmengine.registry import Registry

from mmcarafe.errors import UpsampleConfigError

REGISTRIES = ("MODELS", "HOOKS", "TRANSFORMS", "DATASETS", "METRICS", "OPTIM_WRAPPERS")
"""The registries in which this package's classes have names of mmdet's or mmengine's."""


def successor(kind: type) -> type | None:
    """Return the class of this package that has taken over a class's name, or None.

    Example:
        >>> from mmdet.models import FPN, ResNet
        >>> from mmcarafe.utils.registry import successor
        >>> successor(FPN), successor(ResNet)
        (<class 'mmcarafe.models.necks.FPN'>, None)
    """
    for name in REGISTRIES:
        ours = getattr(mmdet_registry, name).module_dict.get(kind.__name__)
        derived = isinstance(ours, type) and ours is not kind and issubclass(ours, kind)
        if derived and ours.__module__.startswith("mmcarafe."):
            return ours
    return None


def with_successors(cfg: object, registry: Registry) -> object:
    """Replace the class that a config gives, or each of a list of configs, by its successor.

    Raises:
        UpsampleConfigError: the class derives from one that has a successor, which would be needed for the
            upsampler that the config selects.
    """
    if isinstance(cfg, list):
        return [with_successors(part, registry) for part in cfg]
    kind = cfg.get("type") if isinstance(cfg, dict | Config) else None
    if isinstance(kind, type) and (ours := successor(kind)):
        cfg = cfg.copy()
        cfg["type"] = ours
        return cfg
    for selected in _selected(cfg) if kind else ():
        with registry.switch_scope_and_registry(cfg.get("_scope_")) as scoped:
            _check_parent(scoped.get(kind) if isinstance(kind, str) else kind, selected)
    return cfg


def _selected(cfg: dict | Config) -> list[str]:
    """Return types of upsamplers that a config selects for its component, or an unregistered part of it."""
    parts = [cfg, *(part for part in cfg.values() if isinstance(part, dict) and "type" not in part)]
    cfgs = [part.get("upsample_cfg") for part in parts]
    return [cfg["type"] for cfg in cfgs if isinstance(cfg, dict) and cfg.get("type") is not None]


def _check_parent(kind: object, selected: str) -> None:
    parents = kind.__mro__ if isinstance(kind, type) else ()
    parent = next(filter(successor, parents), None)  # the nearest: mmdet's PAFPN derives from its FPN
    ours = parent and successor(parent)
    if ours and not issubclass(kind, ours) and selected not in getattr(ours, "mmdet_types", ()):
        raise UpsampleConfigError(
            f"{kind.__name__} derives from mmdet's {parent.__name__}, which has no upsampler of type "
            f"{selected!r}: derive it from mmcarafe.models.{parent.__name__}, which has them all"
        )


def replace_given_classes() -> None:
    """Let mmdet's and mmengine's registries build successors of the classes that configs give."""
    for module in (mmengine_registry, mmdet_registry):
        for name in REGISTRIES:
            registry = getattr(module, name)
            registry.build_func = _building_successors(registry.build_func)


def _building_successors(build: Callable) -> Callable:
    @wraps(build)
    def build_func(cfg, *args, registry: Registry, **kwargs):
        return build(with_successors(cfg, registry), *args, registry=registry, **kwargs)

    return build_func
