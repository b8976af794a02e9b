# SPDX-License-Identifier: Apache-2.0
"""The types that mmengine writes into checkpoints besides tensors, for torch's ``weights_only`` mode."""

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmcarafe.errors import CheckpointError

TRUST_ADVICE = (
    "if you trust where it comes from, load it yourself with torch.load(..., weights_only=False) and save "
    "its state_dict with torch.save"
)
NUMBERS = ("f8", "f4", "i8")
DTYPES = tuple(type(np.dtype(code)) for code in NUMBERS)
STATISTICS = ("min", "max", "current", "mean")


class RefusedError(CheckpointError):
    """A file asks for more than mmengine's files do."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; only data is read from checkpoints; {TRUST_ADVICE}")


def word(value: object) -> str:
    """Return a string of a file, cut; of anything else the type, since printing it can take for ever."""
    return f"{value!r:.40}" if type(value) is str else f"a {type(value).__name__}"


class _StoredHistory(HistoryBuffer):
    """mmengine's loss history as a file has it: two rows of numbers and their length, and no methods.

    mmengine's own would take its statistics methods from the file, for all histories of the process.
    """

    def __init__(self, *arguments: object) -> None:
        raise RefusedError("it calls HistoryBuffer")

    def __setstate__(self, state: dict) -> None:
        self.__class__ = HistoryBuffer  # and so it is saved again
        rows, length = (state.get("_log_history"), state.get("_count_history")), state.get("max_length")
        if not all(type(row) is np.ndarray and row.ndim == 1 for row in rows) or type(length) is not int:
            raise RefusedError("it holds a HistoryBuffer without its two rows of numbers")
        self.__init__(*rows, length)


def _history_method(owner: object, name: object) -> object:
    if owner is not _StoredHistory or name not in STATISTICS:
        raise RefusedError(f"it asks for the attribute {word(name)} of an object")
    return name  # which a history does not look at


def _dtype(code: object, align: bool = False, copy: bool = False) -> np.dtype:
    if type(code) is not str or code not in NUMBERS:
        raise RefusedError(f"it holds numpy data of the type {word(code)}")
    # numpy's own instance, not a copy: no file can change what it says
    return np.dtype(code)


def _scalar(dtype: object, data: bytes) -> np.generic:
    if not isinstance(dtype, np.dtype):
        raise RefusedError(f"it holds a number of the type {word(dtype)}")
    return np.frombuffer(data, dtype, count=1)[0]


def _array(*arguments: object) -> None:
    raise RefusedError("it calls numpy.ndarray")


def _empty_array(cls: object, shape: tuple, code: object) -> np.ndarray:
    if shape != (0,):
        raise RefusedError("it holds an array of another size than it says")
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
        (_StoredHistory, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_dtype, "numpy.dtype"),
        (_array, "numpy.ndarray"),
    ]
    # numpy 2 renamed the module in which numpy 1 and its files have these functions
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):
        allowed += [(_scalar, f"{module}.scalar"), (_empty_array, f"{module}._reconstruct")]
    # whose state a file may set; no file can call them, since every name that it asks for has a dot
    allowed += [(cls, cls.__name__) for cls in (np.ndarray, *DTYPES)]
    torch.serialization.add_safe_globals(allowed)
    if hasattr(mmengine_checkpoint, "get_torch_safe_globals"):
        # onedl-mmengine's own list: the types themselves, which torch would take in place of the functions
        mmengine_checkpoint.get_torch_safe_globals = list
