# SPDX-License-Identifier: Apache-2.0
"""Reads checkpoints without running code: torch's ``weights_only`` mode, with exactly mmengine's types."""

import mmap
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor, nn

# how torch.save starts a file: as a zip archive, and before torch 1.6 with a pickled number
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
DAMAGED = "fetch it again or use an earlier one"
# what zipfile raises where bytes are missing or wrong
_DAMAGES = (
    zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError, OverflowError,
    struct.error,
)  # fmt: skip
UNTRUSTED = (
    "if you trust where it comes from, load it yourself with torch.load(..., weights_only=False) and save "
    "its state_dict with torch.save"
)
ONLY_DATA = f"only data is read from checkpoints; {UNTRUSTED}"


class CheckpointError(ValueError):
    """A file cannot be read as a checkpoint; the message says why and what to do, but not the file's name."""


class _RefusedError(ValueError):
    """A file asks for more than mmengine's files do."""


class _StoredHistory(HistoryBuffer):
    """mmengine's loss history as a file has it: two rows of numbers and their length, and no methods.

    mmengine's own would take its statistics methods from the file, for all histories of the process.
    """

    def __setstate__(self, state: dict) -> None:
        self.__class__ = HistoryBuffer  # and so it is saved again
        rows, length = (state.get("_log_history"), state.get("_count_history")), state.get("max_length")
        if not all(type(row) is np.ndarray and row.ndim == 1 for row in rows) or type(length) is not int:
            raise _RefusedError("it holds a HistoryBuffer without its two rows of numbers")
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
        raise _RefusedError(f"it calls {self.cls.__name__}")


_HISTORY, _ARRAY = _Restored(_StoredHistory), _Restored(np.ndarray)


def _word(value: object) -> str:
    """A string of a file, cut; of anything else the type, since printing it can take for ever."""
    return f"{value!r:.40}" if type(value) is str else f"a {type(value).__name__}"


def _history_method(owner: object, name: object) -> Callable:
    if owner is not _HISTORY or name not in ("min", "max", "current", "mean"):
        raise _RefusedError(f"it asks for the attribute {_word(name)} of an object")
    return getattr(HistoryBuffer, name)


def _dtype(code: object, align: bool = False, copy: bool = False) -> np.dtype:
    if type(code) is not str or code not in ("f8", "f4", "i8"):
        raise _RefusedError(f"it holds numpy data of the type {_word(code)}")
    # numpy's own instance, not a copy: no file can change what it says
    return np.dtype(code)


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    return np.frombuffer(data, dtype, count=1)[0]


def _empty_array(cls: object, shape: tuple, code: object) -> np.ndarray:
    if cls is not _ARRAY or shape != (0,):
        raise _RefusedError("it holds an array of another class or size than it says")
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


def read_checkpoint(path: str | Path) -> Any:
    """What ``torch.save`` wrote to a local file, on the CPU; nothing in the file is run.

    Beyond ``torch.load(path, weights_only=True)`` this compares the checksums of a zip archive, which torch
    does not, and refuses archives that are compressed or declare more than the file holds, the tar format of
    torch 0.1, which torch before 2.6 could be made to run code with, and objects with methods of the file's.

    Args:
        path (str | Path): the file.

    Returns:
        Usually a dict; for mmengine's checkpoints with the keys ``meta``, ``state_dict``, ``message_hub`` and
        where it can be resumed ``optimizer`` and ``param_schedulers``.

    Raises:
        CheckpointError: the file is damaged, is no checkpoint, or asks for more than data.
        OSError: the file cannot be opened.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"weight": torch.ones(2, 3)}}, f"{folder}/last.pth")
        ...     print(read_checkpoint(f"{folder}/last.pth")["state_dict"]["weight"].shape)
        torch.Size([2, 3])
    """
    with open(path, "rb") as file:
        start = file.read(len(LEGACY))
    if start.startswith(ZIP):
        _check_archive(path)
    elif start != LEGACY and Path(path).suffix != ".safetensors":
        raise CheckpointError(f"it does not start as a file of torch.save does; {DAMAGED}")
    if start.startswith((ZIP, LEGACY)):
        _check_allocations(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a hostile or damaged pickle provokes is open-ended
        raise CheckpointError(_explain(error)) from error
    check_content(content)
    return content


def check_content(content: object) -> None:
    """Raise CheckpointError unless what was loaded is data: no functions, no attributes of a file's choice.

    torch restores attributes of tensors and ordered dicts, which can hide their methods: ``isfinite`` or
    ``items`` would then say what the file wants.
    """
    seen, todo = set(), [content]
    while todo:
        value = todo.pop()
        if id(value) in seen or type(value) is HistoryBuffer:
            continue
        seen.add(id(value))
        attributes = dict(getattr(value, "__dict__", {}))
        if type(value) is OrderedDict:
            metadata = attributes.pop("_metadata", None)
            if metadata is not None and not isinstance(metadata, dict):
                raise CheckpointError(f"its _metadata is {_word(metadata)}, not a dict; {ONLY_DATA}")
            todo.append(metadata)
        if attributes or callable(value):
            raise CheckpointError(f"it sets attributes or functions of {_word(value)}; {ONLY_DATA}")
        if isinstance(value, Tensor) and type(value) not in (Tensor, nn.Parameter):
            raise CheckpointError(f"it holds {_word(value)}, not a plain tensor; {ONLY_DATA}")
        if isinstance(value, dict):
            todo += [*dict.keys(value), *dict.values(value)]
        elif isinstance(value, (list, tuple, set)):
            todo += value


def _check_allocations(path: str | Path) -> None:
    """Raise CheckpointError where a pickle asks for a bytearray, which may be of any length."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for module in (b"builtins", b"__builtin__"):
            if data.find(b"c" + module + b"\nbytearray\n") >= 0:
                raise CheckpointError(f"it asks for builtins.bytearray; {ONLY_DATA}")


def _check_archive(path: str | Path) -> None:
    """Raise CheckpointError unless a zip archive is whole and as plain as torch.save makes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise CheckpointError(f"it is a TorchScript program; {ONLY_DATA}")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CheckpointError(f"it is compressed, which torch.save does not do; {UNTRUSTED}")
            size, declared = Path(path).stat().st_size, sum(entry.file_size for entry in entries)
            if declared > size:
                raise CheckpointError(f"its {size} bytes declare {declared} bytes of data; {DAMAGED}")
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except _DAMAGES as error:
        raise CheckpointError(f"it is cut off or damaged ({error}); {DAMAGED}") from error
    if damaged:
        raise CheckpointError(f"it is damaged, the checksum of {damaged} is wrong; {DAMAGED}")


def _explain(error: Exception) -> str:
    """The reason in torch's message, which is many lines long, and the remedy."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        # some versions of torch name the module of exec, others do not
        return f"it asks for {found[1].removeprefix('builtins.')}; {ONLY_DATA}"
    # torch puts its advice before and behind the error, with empty lines between
    text = text.split("WeightsUnpickler error: ")[-1].split("DefaultCPUAllocator: ")[-1]
    reason = text.strip().split("\n")[0] or type(error).__name__
    if isinstance(error, (_RefusedError, UnpicklingError)):
        return f"{reason}; {ONLY_DATA}"
    return f"it is cut off or damaged ({reason}); {DAMAGED}"
