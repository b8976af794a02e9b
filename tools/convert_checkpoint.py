# SPDX-License-Identifier: Apache-2.0
"""Bring CARAFE weights of other implementations into this one's parameter names.

Known layouts: mmcv's and mmdet's, the standalone CUDA packages' and mps-carafe's (all the same names, nothing
to do), and PyTorch modules whose convolutions are wrapped together with a BatchNorm.
"""

import argparse
import io
import os
from pathlib import Path
from typing import NamedTuple

import torch
from common import InputError, run
from fold_batch_norm import check_values, fold
from torch import Tensor
from weights import check_finite, read_state_dict

from mmcarafe.models.resume import PARTIAL, CheckpointWriteError, WholeFileBackend

COMPRESSOR, ENCODER = "channel_compressor", "content_encoder"


class Layout(NamedTuple):
    """How an implementation calls its convolutions, and the BatchNorm behind each."""

    compressor: str
    encoder: str
    compressor_norm: str
    encoder_norm: str
    refusal: str = ""


LAYOUTS = (
    Layout("comp.conv", "enc.conv", "comp.bn", "enc.bn"),
    Layout(f"{COMPRESSOR}.conv", f"{ENCODER}.conv", f"{COMPRESSOR}.bn", f"{ENCODER}.bn"),
    Layout(
        f"{COMPRESSOR}.compressor_conv",
        "context_encoder.encoder_conv",
        f"{COMPRESSOR}.compressor_bn",
        "context_encoder.encoder_bn",
        "modules with these names exist with several operators (a plain view for the pixel shuffle, a "
        "softmax over the width), so equal weights do not give equal outputs; train again",
    ),
)
ACTIVATION_HELP = (
    "which convolutions of the source have an activation behind them (a state dict does not tell; look "
    "at its forward): none, compressor, encoder or both. Needed where convolutions are wrapped"
)


def find_modules(state: dict[str, Tensor]) -> dict[str, Layout | None]:
    """Prefix of each CARAFE module, with its layout; None where the names are ours already."""
    found = {}

    def add(prefix: str, layout: Layout | None) -> None:
        if prefix in found:
            raise InputError(
                f"{prefix.rstrip('.') or 'the module'} has weights under the names of two implementations; "
                "leave out those that are not used"
            )
        found[prefix] = layout

    for key in state:
        if key.endswith(f"{COMPRESSOR}.weight") and key.replace(COMPRESSOR, ENCODER) in state:
            add(key.removesuffix(f"{COMPRESSOR}.weight"), None)
        for layout in LAYOUTS:
            suffix = f"{layout.compressor}.weight"
            prefix = key.removesuffix(suffix)
            if f".{key}".endswith(f".{suffix}") and f"{prefix}{layout.encoder}.weight" in state:
                add(prefix, layout)
    return found


def convert_module(state: dict[str, Tensor], prefix: str, layout: Layout, activation: str, eps: float) -> str:
    """Rename one module's entries in place; what was done, in words."""
    parts = {
        COMPRESSOR: (prefix + layout.compressor, prefix + layout.compressor_norm),
        ENCODER: (prefix + layout.encoder, prefix + layout.encoder_norm),
    }
    name = prefix.rstrip(".") or "the module"
    if layout.refusal:
        raise InputError(f"{name}: {layout.refusal}")
    for conv, norm in parts.values():
        check_values(state, conv, norm)
    if state[f"{parts[COMPRESSOR][0]}.weight"].shape[2:] != (1, 1):
        shape = tuple(state[f"{parts[COMPRESSOR][0]}.weight"].shape)
        raise InputError(f"{name}: expected a 1 x 1 convolution as compressor, got weights of shape {shape}")
    check_activation(name, activation)
    check_entries(state, prefix, layout)
    words = []
    for ours, (conv, norm) in parts.items():
        with_norm = f"{norm}.running_var" in state
        if activation == "both" and with_norm:
            _keep_norm(state, prefix, ours, conv, norm)
        else:
            weight, bias = fold(state, conv, norm, eps)
            _drop(state, conv, norm)
            state |= {f"{prefix}{ours}.weight": weight, f"{prefix}{ours}.bias": bias}
        words.append(f"{conv.removeprefix(prefix)} -> {ours}" + (" with its BatchNorm" if with_norm else ""))
    return f"{name}: {', '.join(words)}"


def check_entries(state: dict[str, Tensor], prefix: str, layout: Layout) -> None:
    """Raise InputError for entries of a module that are neither a convolution's nor a whole BatchNorm's."""
    known = {f"{conv}.{name}" for conv in (layout.compressor, layout.encoder) for name in ("weight", "bias")}
    for norm in (layout.compressor_norm, layout.encoder_norm):
        if {f"{prefix}{norm}.running_mean", f"{prefix}{norm}.running_var"} <= state.keys():
            names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            known |= {f"{norm}.{name}" for name in names}
    parts = {layout.compressor.split(".")[0], layout.encoder.split(".")[0], "out"}
    mine = [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
    unknown = [key for key in mine if key.split(".")[0] in parts and key not in known]
    if unknown:
        raise InputError(
            f"{prefix}{unknown[0]} belongs to a layer that cannot be worked into CARAFE's convolutions "
            "(only BatchNorm with running statistics can); train again, starting without these weights"
        )


def check_activation(name: str, activation: str | None) -> None:
    """Raise InputError where no CARAFE computes the same as the source."""
    if activation is None:
        raise InputError(f"{name}: say with --activation {ACTIVATION_HELP}")
    if activation in ("compressor", "encoder"):
        raise InputError(
            f"{name}: an activation behind the {activation} alone cannot be worked into a convolution, and "
            "this layer has one behind both (act_cfg) or none; train again, starting without these weights"
        )


def _keep_norm(state: dict[str, Tensor], prefix: str, ours: str, conv: str, norm: str) -> None:
    """Names of a layer with norm_cfg and act_cfg: the norm is the first entry behind its convolution."""
    post = f"{prefix}{'compressor' if ours == COMPRESSOR else 'encoder'}_post.0"
    weight = state[f"{conv}.weight"]
    entries = {f"{prefix}{ours}.weight": weight}
    entries[f"{prefix}{ours}.bias"] = state.get(f"{conv}.bias", weight.new_zeros(len(weight)))
    for key in [key for key in state if key.startswith(f"{norm}.")]:
        entries[f"{post}.{key.removeprefix(norm + '.')}"] = state[key]
    _drop(state, conv, norm)
    state |= entries


def _drop(state: dict[str, Tensor], *names: str) -> None:
    for key in [key for key in state if key.startswith(tuple(f"{name}." for name in names))]:
        del state[key]


def convert(state: dict[str, Tensor], activation: str | None = None, eps: float = 1e-5) -> list[str]:
    """Rename in place every CARAFE module of a state dict; a line for each.

    Args:
        state (dict[str, Tensor]): parameters and buffers by name; other entries stay as they are.
        activation (str, optional): ``none``, ``compressor``, ``encoder`` or ``both``; see the command's help.
        eps (float): of the source's BatchNorm layers.

    Raises:
        InputError: there is no CARAFE module, or one has no counterpart that computes the same.
    """
    modules = find_modules(state)
    if not modules:
        known = ", ".join(sorted({COMPRESSOR, *(layout.compressor for layout in LAYOUTS)}))
        raise InputError(f"no CARAFE weights found: no parameter is called {known}")
    return [
        f"{prefix.rstrip('.') or 'the module'}: named as here already"
        if layout is None
        else convert_module(state, prefix, layout, activation, eps)
        for prefix, layout in modules.items()
    ]


def check_target(target: str) -> None:
    """Raise InputError where the file cannot be written, or only over something that exists."""
    for path in (target, f"{target}{PARTIAL}"):  # the second is its name until it is whole
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


def main() -> None:
    """Read, convert, report, write."""
    parser = argparse.ArgumentParser(description="Convert CARAFE weights of other implementations")
    parser.add_argument("source", help="checkpoint or state dict")
    parser.add_argument("target", help="file to write")
    parser.add_argument(
        "--activation", choices=["none", "compressor", "encoder", "both"], help=ACTIVATION_HELP
    )
    parser.add_argument("--bn-eps", type=float, default=1e-5, help="eps of the source's BatchNorm (1e-5; "
                        "YOLO models often have 1e-3)")  # fmt: skip
    args = parser.parse_args()
    if not 0 <= args.bn_eps < 1:
        parser.error(f"--bn-eps: expected a number from 0 to below 1, got {args.bn_eps:g}")
    check_target(args.target)
    checkpoint, state = read_state_dict(args.source)
    check_finite(args.source, state)
    for name in ("optimizer", "ema_state_dict"):
        if checkpoint is not state and checkpoint.pop(name, None) is not None:
            print(f"{name}: left out; it belongs to the old names")
    for line in convert(state, args.activation, args.bn_eps):
        print(line)
    if args.activation == "both":
        print(
            "use it with upsample_cfg=dict(type='CARAFE', norm_cfg=dict(type='BN', eps=<the source's>), "
            "act_cfg=dict(type=<the source's>))"
        )
    write(checkpoint, args.target)
    print(f"wrote {args.target}")


if __name__ == "__main__":
    run(main)
