# SPDX-License-Identifier: Apache-2.0
"""Bring CARAFE weights of other implementations into this one's parameter names.

Known layouts: mmcv's and mmdet's, the standalone CUDA packages' and mps-carafe's (all the same names, nothing
to do), and those of PyTorch modules whose convolutions, bare or wrapped, may have a BatchNorm behind them.
"""

import io
import os
from pathlib import Path

import torch
from torch import Tensor

from mmcarafe.checkpoint.batch_norm import fold
from mmcarafe.checkpoint.layouts import (
    COMPRESSOR,
    ENCODER,
    RETRAINING,
    Module,
    check_operator,
    counterparts,
    find_modules,
    is_ours,
    nothing_found,
    place_norms,
)
from mmcarafe.checkpoint.writing import PARTIAL_SUFFIX, WholeFileBackend
from mmcarafe.errors import CheckpointWriteError, InputError

ACTIVATION_HELP = (
    "which convolutions of the source have an activation behind them and their BatchNorm (a state dict does "
    "not tell; look at its forward): none, compressor, encoder or both. Needed where names are not as here"
)
FORWARD = (
    "outputs are the source's where its forward calls pixel_shuffle, takes the softmax over the neighbours "
    "and gathers these before the map is enlarged (or with dilation=scale after); a state dict does not tell"
)


def convert_module(state: dict[str, Tensor], module: Module, activation: str | None, eps: float) -> str:
    """Rename one module's entries in place; return what was done, in words."""
    if is_ours(state, module):
        return f"{module}: named as here already"
    norms = place_norms(state, module)
    known = check_operator(state, module, norms)
    check_activation(str(module), activation or known)
    entries, words = {}, []
    for ours, (_, _, conv) in zip((COMPRESSOR, ENCODER), module.parts, strict=True):
        values = fold(state, conv, norm := norms.get(conv), eps)
        entries |= zip((f"{module.prefix}{ours}.weight", f"{module.prefix}{ours}.bias"), values, strict=True)
        worked_in = f" with {norm.removeprefix(module.prefix)} worked in" if norm else ""
        words.append(f"{conv.removeprefix(module.prefix)} -> {ours}{worked_in}")
    for key in module.keys(state):
        del state[key]
    state |= entries
    return f"{module}: {', '.join(words)}"


def check_activation(name: str, activation: str | None) -> None:
    """Raise InputError where no CARAFE computes the same as the source."""
    if activation is None:
        raise InputError(f"{name}: say with --activation {ACTIVATION_HELP}")
    if activation in ("compressor", "encoder"):
        raise InputError(
            f"{name}: an activation behind the {activation} alone cannot be worked into a convolution, and "
            f"this layer has one behind both (act_cfg) or none; {RETRAINING}"
        )


def convert(state: dict[str, Tensor], activation: str | None = None, eps: float = 1e-5) -> list[str]:
    """Rename in place every CARAFE module of a state dict; return a line for each.

    Args:
        state (dict[str, Tensor]): parameters and buffers by name; other entries stay as they are.
        activation (str, optional): ``none``, ``compressor``, ``encoder`` or ``both``; see the command's help.
        eps (float): of the source's BatchNorm layers.

    Raises:
        InputError: there is no CARAFE module, or one has no counterpart that computes the same.
    """
    modules, alone = find_modules(state)
    if not modules:
        raise nothing_found(state, alone)
    lines = [convert_module(state, module, activation, eps) for module in modules]
    names = {part.name for module in modules for part in module.parts}
    return lines + [
        f"{part.conv}.weight: left as it is, there is no {counterparts(part)} beside it"
        for part in alone
        if part.name in names
    ]


def check_target(target: str) -> None:
    """Raise InputError where the file cannot be written, or only over something that exists."""
    if target.endswith(".safetensors"):
        raise InputError(f"{target}: expected a name for torch's format, which is written: end it in .pth")
    for path in (target, f"{target}{PARTIAL_SUFFIX}"):  # the second is its name until it is whole
        if os.path.lexists(path):
            raise InputError(f"{path} exists; choose another name, nothing is overwritten")
    if not Path(target).parent.is_dir():
        raise InputError(f"{target}: folder {Path(target).parent} does not exist; make it")


def write(checkpoint: dict, target: str) -> None:
    """Write a checkpoint whole or not at all; OSError with the file's name where the disk is full."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    try:
        WholeFileBackend().put(content.getvalue(), target)
    except CheckpointWriteError as error:  # its advice is for training
        raise OSError(error.errno, os.strerror(error.errno), target) from error
