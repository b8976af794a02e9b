# SPDX-License-Identifier: Apache-2.0
"""Take from mmengine what the layers need of it, or stand-ins where it is not installed.

With mmengine a layer is a ``BaseModule``, registered in ``MODELS`` and initialised by ``initialize``. Without
it ``MODELS`` is None, and a layer is a torch module whose weights start from the same distributions.
"""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

Layer = TypeVar("Layer", bound=type[nn.Module])

FILL: dict[str, Callable] = {
    "Constant": lambda weight, val: nn.init.constant_(weight, val),
    "Normal": lambda weight, std: nn.init.normal_(weight, std=std),
    "TruncNormal": lambda weight, std: nn.init.trunc_normal_(weight, std=std),
    "Xavier": lambda weight, distribution: getattr(nn.init, f"xavier_{distribution}_")(weight),
}
"""The initialisers that this package's layers ask for, under mmengine's names."""


class PlainModule(nn.Module):
    """Stand for mmengine's ``BaseModule``: keep the initialisation of a layer."""

    def __init__(self, init_cfg: list) -> None:
        super().__init__()
        self.init_cfg = init_cfg


def fill(module: nn.Module, init_cfg: list) -> None:
    """Stand for mmengine's ``initialize``: apply rules for layers of some classes, or for a named child."""
    for cfg in init_cfg:
        rule = dict(cfg)
        kind, bias = rule.pop("type"), rule.pop("bias", 0)
        classes, child = rule.pop("layer", []), rule.pop("override", None)
        classes = [classes] if isinstance(classes, str) else classes
        of_classes = [layer for layer in module.modules() if type(layer).__name__ in classes]
        for layer in [module.get_submodule(child["name"])] if child else of_classes:
            FILL[kind](layer.weight, **rule)
            if isinstance(layer.bias, Tensor):
                nn.init.constant_(layer.bias, bias)


try:
    from mmengine.model import BaseModule, initialize
    from mmengine.registry import MODELS
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "mmengine":  # it is there, but what it needs is not
        raise
    BaseModule, initialize, MODELS = PlainModule, fill, None


def register(kind: Layer) -> Layer:
    """Register a class in mmengine's ``MODELS``, where there is one, and return it."""
    if MODELS is not None:
        MODELS.register_module(module=kind)
    return kind
