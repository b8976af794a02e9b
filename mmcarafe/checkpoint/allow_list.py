# SPDX-License-Identifier: Apache-2.0
"""The types that mmengine writes into checkpoints besides tensors, for torch's ``weights_only`` mode."""

from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint


class RefusedError(ValueError):
    """A file asks for more than mmengine's files do."""


class _StoredHistory(HistoryBuffer):
    """mmengine's loss history as a file has it: two rows of numbers and their length, and no methods.

    mmengine's own would take its statistics methods from the file, for all histories of the process.
    """

    def __setstate__(self, state: dict) -> None:
        self.__class__ = HistoryBuffer  # and so it is saved again
        rows, length = (state.get("_log_history"), state.get("_count_history")), state.get("max_length")
        if not all(type(row) is np.ndarray and row.ndim == 1 for row in rows) or type(length) is not int:
            raise RefusedError("it holds a HistoryBuffer without its two rows of numbers")
        self.__init__(*rows, length)


class _Restored:
    """Stands for a type whose stored instances may be restored; unlike the type, a file cannot call it."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.__new__ = lambda _: cls.__new__(cls)

    def __eq__(self, other: object) -> bool:
        # torch looks for the type of each object whose attributes a file sets
        return other is self or other is self.cls

    def __hash__(self) -> int:
        return hash(self.cls)

    def __call__(self, *args: object) -> None:
        raise RefusedError(f"it calls {self.cls.__name__}")


_HISTORY, _ARRAY = _Restored(_StoredHistory), _Restored(np.ndarray)


def word(value: object) -> str:
    """A string of a file, cut; of anything else the type, since printing it can take for ever."""
    return f"{value!r:.40}" if type(value) is str else f"a {type(value).__name__}"


def _history_method(owner: object, name: object) -> Callable:
    if owner is not _HISTORY or name not in ("min", "max", "current", "mean"):
        raise RefusedError(f"it asks for the attribute {word(name)} of an object")
    return getattr(HistoryBuffer, name)


def _dtype(code: object, align: bool = False, copy: bool = False) -> np.dtype:
    if type(code) is not str or code not in ("f8", "f4", "i8"):
        raise RefusedError(f"it holds numpy data of the type {word(code)}")
    # numpy's own instance, not a copy: no file can change what it says
    return np.dtype(code)


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    return np.frombuffer(data, dtype, count=1)[0]


def _empty_array(cls: object, shape: tuple, code: object) -> np.ndarray:
    if cls is not _ARRAY or shape != (0,):
        raise RefusedError("it holds an array of another class or size than it says")
    return np.empty(0, np.int8)  # numpy then sets its shape, type and data


def allow_mmengine_types() -> None:
    """Allow-list the types mmengine 0.10 writes besides tensors: its loss history and numpy numbers.

    Since torch 2.6 ``torch.load`` refuses every other type by default, and mmengine, which saves its
    message hub into each checkpoint, could then neither evaluate nor resume a model it trained. Everything
    not listed is refused as before, so a checkpoint still cannot run code. The listed names stand for
    functions that take exactly the arguments mmengine's files hold: ``getattr`` only the four methods of the
    history, numpy only float64, float32 and int64, and no constructor with arguments of a file's choice.
    """
    allowed = [
        (_history_method, "builtins.getattr"),
        (_HISTORY, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_ARRAY, "numpy.ndarray"),
        (_dtype, "numpy.dtype"),
    ]
    # numpy 2 renamed the module in which numpy 1 and its files have these functions
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):
        allowed += [(_scalar, f"{module}.scalar"), (_empty_array, f"{module}._reconstruct")]
    allowed += [np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    torch.serialization.add_safe_globals(allowed)
    if hasattr(mmengine_checkpoint, "get_torch_safe_globals"):
        # onedl-mmengine's own list: the types themselves, which torch would take in place of the functions
        mmengine_checkpoint.get_torch_safe_globals = list
