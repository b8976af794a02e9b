# SPDX-License-Identifier: Apache-2.0
"""Mixed precision on a CPU too: mmengine's AmpOptimWrapper, registered under its name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import MethodType
from weakref import WeakSet

import torch
from mmcv import ops
from mmengine import optim
from mmengine.device import get_device
from mmengine.runner import autocast
from torch import Tensor, nn

# mmcv's operators have no bfloat16 kernels, and bfloat16 numbers above 256 are whole pixels apart: methods
# that call them, or compute with boxes, do it in float32; mmcarafe.engine.detection adds mmdet's
FLOAT32_METHODS = [
    (kind, "forward") for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, nn.Module)
]
# methods that put float32 numbers into tensors of their inputs' dtype fail in float16 too
MIXED_METHODS = []


class AmpOptimWrapper(optim.AmpOptimWrapper):
    """mmengine's AmpOptimWrapper that works on a CPU too: the losses are computed in bfloat16 autocast.

    Weights, gradients and the optimizer stay in float32. On a GPU it is mmengine's; what mmcv and mmdet
    cannot compute in bfloat16, or in float16, is computed in float32 there too.

    Args:
        loss_scale (float | str | dict): mmengine's; unused on a CPU, bfloat16 has the range of float32.
            Default: "dynamic".
        dtype (str | torch.dtype | None): what autocast computes in. Default: None, float16 on a GPU and
            bfloat16 on a CPU, where nothing else can be given.
        **kwargs: mmengine's, the optimizer among them.

    Raises:
        ValueError: another dtype than bfloat16 is given on a CPU.

    Example:
        >>> import torch
        >>> from mmcarafe.engine import AmpOptimWrapper
        >>> layer = torch.nn.Linear(2, 3)
        >>> wrapper = AmpOptimWrapper(dtype="bfloat16", optimizer=torch.optim.SGD(layer.parameters(), 0.1))
        >>> with wrapper.optim_context(layer):
        ...     out = layer(torch.rand(4, 2))
        >>> tuple(out.shape), out.dtype, layer.weight.dtype
        ((4, 3), torch.bfloat16, torch.float32)
    """

    def __init__(
        self, loss_scale: float | str | dict = "dynamic", dtype: str | torch.dtype | None = None, **kwargs
    ) -> None:
        self._prepared: WeakSet[nn.Module] = WeakSet()
        self.on_cpu = get_device() == "cpu"
        if not self.on_cpu:
            super().__init__(loss_scale=loss_scale, dtype=dtype, **kwargs)
            return
        if dtype not in (None, "bfloat16", torch.bfloat16):
            raise ValueError(
                f"expected dtype None or bfloat16, which mixed precision on a CPU is, got {dtype}"
            )
        kwargs.pop("use_fsdp", None)  # it chooses a loss scaler
        optim.OptimWrapper.__init__(self, **kwargs)  # mmengine's own asserts that there is a GPU
        self.cast_dtype = torch.bfloat16
        self.loss_scaler = torch.amp.GradScaler("cpu", enabled=False)
        self._scale_update_param = None

    def state_dict(self) -> dict:
        """Return the optimizer's state, and that of the loss scaler where there is one."""
        state = super().state_dict()
        if self.on_cpu:  # an empty state, which a GPU's loss scaler would not load
            del state["loss_scaler"]
        return state

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter the context of the losses: autocast, with mmcv's operators in float32 if it is bfloat16."""
        if model not in self._prepared:
            bfloat16 = self.cast_dtype == torch.bfloat16
            keep_in_float32(model, MIXED_METHODS + FLOAT32_METHODS * bfloat16)
            self._prepared.add(model)
        with super().optim_context(model):
            yield


def keep_in_float32(model: nn.Module, methods: list[tuple[type, str]]) -> None:
    """Let the modules of a model compute in float32 under autocast in some methods, (class, name).

    A subclass's own method is kept, and a copy of the model computes with its own weights.
    """
    for module in model.modules():
        for name in {name for owner, name in methods if isinstance(module, owner)}:
            setattr(module, name, MethodType(_in_float32(getattr(type(module), name)), module))


def _in_float32(method: Callable) -> Callable:
    @wraps(method)
    def compute(self, *args, **kwargs):
        named = dict(zip(kwargs, _to_float32(tuple(kwargs.values())), strict=True))
        with autocast(enabled=False):
            return method(self, *_to_float32(args), **named)

    return compute


def _to_float32(value: object) -> object:
    """Turn tensors of half precision into float32, in lists and tuples too; leave anything else."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_to_float32, value))
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value
