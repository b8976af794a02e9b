# SPDX-License-Identifier: Apache-2.0
"""Reads checkpoints without running code: torch's ``weights_only`` mode, with exactly mmengine's types."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint

# how torch.save starts a file: as a zip archive, and before torch 1.6 with a pickled number
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
DAMAGED = "fetch it again or use an earlier one"
UNTRUSTED = (
    "if you trust where it comes from, load it yourself with torch.load(..., weights_only=False) and save "
    "its state_dict with torch.save"
)
ONLY_DATA = f"only data is read from checkpoints; {UNTRUSTED}"


class CheckpointError(ValueError):
    """A file cannot be read as a checkpoint; the message says why and what to do, but not the file's name."""


class _RefusedError(ValueError):
    """A file asks for more than mmengine's files do."""


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


_HISTORY, _ARRAY = _Restored(HistoryBuffer), _Restored(np.ndarray)


def _history_method(owner: object, name: object) -> Callable:
    if owner is not _HISTORY or name not in ("min", "max", "current", "mean"):
        raise _RefusedError(f"it asks for the attribute {name!r:.40} of an object")
    return getattr(HistoryBuffer, name)


def _dtype(code: object, align: bool = False, copy: bool = False) -> np.dtype:
    if type(code) is not str or code not in ("f8", "f4", "i8"):
        raise _RefusedError(f"it holds numpy data of the type {code!r:.40}")
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
    does not, and refuses archives that are compressed or declare more than the file holds, and the tar format
    of torch 0.1, which torch before 2.6 could be made to run code with.

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
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a hostile or damaged pickle provokes is open-ended
        raise CheckpointError(_explain(error)) from error


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
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"it is cut off or damaged ({error}); {DAMAGED}") from error
    if damaged:
        raise CheckpointError(f"it is damaged, the checksum of {damaged} is wrong; {DAMAGED}")


def _explain(error: Exception) -> str:
    """The reason in torch's message, which is many lines long, and the remedy."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {found[1]}; {ONLY_DATA}"
    # torch puts its advice before and behind the error, with empty lines between
    text = text.split("WeightsUnpickler error: ")[-1].split("DefaultCPUAllocator: ")[-1]
    reason = text.strip().split("\n")[0] or type(error).__name__
    if isinstance(error, (_RefusedError, UnpicklingError)):
        return f"{reason}; {ONLY_DATA}"
    return f"it is cut off or damaged ({reason}); {DAMAGED}"
