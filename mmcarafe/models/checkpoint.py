# SPDX-License-Identifier: Apache-2.0
"""Lets ``torch.load`` read mmengine's checkpoints without leaving ``weights_only`` mode."""

from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer


def _history_method(owner: type, name: str) -> Callable:
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise ValueError(f"refused to load a checkpoint that asks for {owner}.{name}")
    return getattr(owner, name)


def allow_mmengine_types() -> None:
    """Allow-list the types mmengine 0.10 writes besides tensors: its loss history and numpy numbers.

    Since torch 2.6 ``torch.load`` refuses every other type by default, and mmengine, which saves its
    message hub into each checkpoint, could then neither evaluate nor resume a model it trained. Everything
    not listed is refused as before, so a checkpoint still cannot run code.
    """
    # torch.save writes HistoryBuffer's methods as calls of getattr; the stand-in gives those and no others
    torch.serialization.add_safe_globals([(_history_method, "builtins.getattr")])
    # numpy 2 renamed the module in which numpy 1 and its files have these functions
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):
        torch.serialization.add_safe_globals(
            [(multiarray.scalar, f"{module}.scalar"), (multiarray._reconstruct, f"{module}._reconstruct")]
        )
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            np.dtypes.Float64DType,
            np.dtypes.Float32DType,
            np.dtypes.Int64DType,
        ]
    )
