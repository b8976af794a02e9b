# SPDX-License-Identifier: Apache-2.0
"""Weights that a tool is given: read as data only, and compared with the model before they are used."""

import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from common import InputError
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import _load_checkpoint
from torch import Tensor, nn

from mmcarafe.models.checkpoint import DAMAGED, CheckpointError, check_content, read_checkpoint


def check_checkpoint(model: nn.Module, path: str) -> None:
    """Raise InputError unless the checkpoint holds exactly the model's parameters and buffers, all finite."""
    check_state(model, path, read_state_dict(path)[1])


def check_state(model: nn.Module, path: str, theirs: dict[str, Tensor]) -> None:
    """Raise InputError unless a state dict is exactly the model's, all finite."""
    ours = unwrap(model).state_dict()
    missing = [key for key in ours if key not in theirs]
    unknown = [key for key in theirs if key not in ours]
    common = [key for key in ours if key in theirs]
    shapes = [key for key in common if ours[key].shape != theirs[key].shape]
    kinds = [key for key in common if _kind(ours[key]) != _kind(theirs[key])]
    problems = [
        f"{len(keys)} {what} (first: {keys[0]!r})"
        for keys, what in (
            (missing, "parameters are missing"),
            (unknown, "parameters are not in the model"),
            (shapes, "parameters have another shape"),
            (kinds, "parameters are other kinds of numbers"),
        )
        if keys
    ]
    if problems:
        raise InputError(
            f"checkpoint {path} was made by another architecture than this config builds: "
            f"{', '.join(problems)}; use the config it was trained with"
        )
    check_finite(path, theirs)


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()


def check_finite(path: str, state: dict[str, Tensor]) -> None:
    """Raise InputError where a parameter or buffer holds NaN or infinity."""
    # isfinite has no kernel for numbers of 8 bits
    broken = [key for key, v in state.items() if not (v.float() if v.itemsize == 1 else v).isfinite().all()]
    if broken:
        raise InputError(
            f"checkpoint {path} holds NaN or infinity in {len(broken)} parameters (first: {broken[0]!r}): "
            "the training diverged or the file is damaged; use an earlier checkpoint"
        )


def read_state_dict(path: str) -> tuple[dict, dict[str, Tensor]]:
    """A checkpoint, and the state dict that it is or holds; InputError where there is none."""
    local = not re.match(r"[\w-]+://", path) or Path(path).exists()
    if local and not Path(path).is_file():
        raise InputError(
            f"checkpoint {path} {'is no regular file' if Path(path).exists() else 'does not exist'}"
        )
    try:
        checkpoint = read_checkpoint(path) if local else fetch_checkpoint(path)
    except (CheckpointError, UnpicklingError, OSError) as error:
        raise InputError(f"checkpoint {path} cannot be read as weights: {error}") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not is_state_dict(state):
        raise InputError(f"checkpoint {path} holds no state dict (parameters by name)")
    storages = (value.untyped_storage() for value in state.values())
    declared = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if local and declared > Path(path).stat().st_size:
        raise InputError(
            f"checkpoint {path} declares {declared} bytes of parameters, more than the file holds; {DAMAGED}"
        )
    return checkpoint, state


def fetch_checkpoint(url: str) -> object:
    """What a URL or a scheme of mmengine's names, as data only."""
    try:
        checkpoint = _load_checkpoint(url, map_location="cpu")
    except (OSError, KeyError, ImportError, ValueError) as error:  # each of mmengine's loaders has its own
        raise CheckpointError(f"it cannot be fetched ({type(error).__name__}: {error})") from error
    check_content(checkpoint)
    return checkpoint


def is_state_dict(state: object) -> bool:
    """Whether something is a dict of parameters by name."""
    return isinstance(state, dict) and all(isinstance(k, str) and is_plain(v) for k, v in state.items())


def is_plain(value: object) -> bool:
    """A dense tensor on the CPU that is no larger than its data, as all that mmengine saves of a model."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized:
        return False
    dense = value.layout is torch.strided and value.device.type == "cpu"
    return dense and value.nbytes <= value.untyped_storage().nbytes()


def unwrap(model: nn.Module) -> nn.Module:
    """The detector inside wrappers for distribution and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
