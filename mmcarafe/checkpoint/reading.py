# SPDX-License-Identifier: Apache-2.0
"""Read checkpoints without running code: torch's ``weights_only`` mode, with exactly mmengine's types."""

import mmap
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from mmcarafe.checkpoint.allow_list import TRUST_ADVICE, RefusedError
from mmcarafe.checkpoint.rebuilding import rebuild
from mmcarafe.errors import CheckpointError

# how torch.save starts a file: as a zip archive, and before torch 1.6 with a pickled number
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
DAMAGE_ADVICE = "fetch it again or use an earlier one"


def read_checkpoint(path: str | Path) -> Any:
    """Return what ``torch.save`` wrote to a local file, on the CPU; nothing in the file is run.

    Beyond ``torch.load(path, weights_only=True)`` this compares the checksums of a zip archive, which torch
    does not, and refuses archives that are compressed or declare more than the file holds, the tar format of
    torch 0.1, which torch before 2.6 could be made to run code with, and whatever cannot be rebuilt from
    plain types.

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
    zipped = start.startswith(ZIP)
    if not zipped and start != LEGACY and Path(path).suffix != ".safetensors":
        raise CheckpointError(f"it does not start as a file of torch.save does; {DAMAGE_ADVICE}")
    try:
        if zipped:
            _check_archive(path)
        _check_allocations(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # what a hostile or damaged file provokes is open-ended
        raise _explained(error) from error
    return rebuild(content)


def _check_allocations(path: str | Path) -> None:
    """Raise CheckpointError where a pickle asks for a bytearray, which may be of any length."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for module in (b"builtins", b"__builtin__"):
            if data.find(b"c" + module + b"\nbytearray\n") >= 0:
                raise RefusedError("it asks for builtins.bytearray")


def _check_archive(path: str | Path) -> None:
    """Raise CheckpointError unless a zip archive is whole and as plain as torch.save makes it."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise RefusedError("it is a TorchScript program")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"it is compressed, which torch.save does not do; {TRUST_ADVICE}")
        size, declared = Path(path).stat().st_size, sum(entry.file_size for entry in entries)
        if declared > size:
            raise CheckpointError(f"its {size} bytes declare {declared} bytes of data; {DAMAGE_ADVICE}")
        if damaged := archive.testzip():
            raise CheckpointError(f"it is damaged, the checksum of {damaged} is wrong; {DAMAGE_ADVICE}")


def _explained(error: Exception) -> CheckpointError:
    """Return the reason in a message, of which torch's are many lines long, and the remedy."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        # some versions of torch name the module of exec, others do not
        return RefusedError(f"it asks for {found[1].removeprefix('builtins.')}")
    # torch puts its advice before and behind the error, with empty lines between
    text = text.split("WeightsUnpickler error: ")[-1].split("DefaultCPUAllocator: ")[-1]
    reason = text.strip().split("\n")[0] or type(error).__name__
    if isinstance(error, UnpicklingError):
        return RefusedError(reason)
    return CheckpointError(f"it is cut off or damaged ({reason}); {DAMAGE_ADVICE}")
