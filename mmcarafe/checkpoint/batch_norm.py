# SPDX-License-Identifier: Apache-2.0
"""The weights of a convolution and of the BatchNorm behind it, as those of one convolution."""

import torch
from torch import Tensor

from mmcarafe.errors import InputError


def check_convolution(state: dict[str, Tensor], conv: str) -> None:
    """Raise InputError unless the values are those of a convolution."""
    weight = state[f"{conv}.weight"]
    if weight.ndim != 4 or not weight.is_floating_point():
        raise InputError(
            f"{conv}.weight: expected the weights of a convolution, floating-point numbers of shape "
            f"(output channels, input channels, height, width), got {_kind(weight)}"
        )
    _check_channels(state, conv, f"{conv}.bias")


def check_norm(state: dict[str, Tensor], conv: str, norm: str) -> None:
    """Raise InputError unless the values are those of a BatchNorm behind the convolution."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        _check_channels(state, conv, f"{norm}.{name}")
    if (state[f"{norm}.running_var"] < 0).any():
        least = float(state[f"{norm}.running_var"].min())
        raise InputError(f"{norm}.running_var: expected variances, which are 0 or more, got {least:g}")


def _check_channels(state: dict[str, Tensor], conv: str, key: str) -> None:
    # what has another size or type would be broadcast or cast, to weights that load and are wrong
    size, value = len(state[f"{conv}.weight"]), state.get(key)
    if value is not None and (value.shape != (size,) or not value.is_floating_point()):
        raise InputError(
            f"{key}: expected a floating-point number for each of the {size} output channels of "
            f"{conv}, got {_kind(value)}"
        )


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


def fold(state: dict[str, Tensor], conv: str, norm: str, eps: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the evaluation-mode BatchNorm behind it, if any, worked in."""
    weight = state[f"{conv}.weight"]
    bias = state.get(f"{conv}.bias", weight.new_zeros(len(weight)))
    if not norm:
        return weight, bias
    mean, var = (state[f"{norm}.running_{name}"].double() for name in ("mean", "var"))
    gamma = state.get(f"{norm}.weight", torch.ones_like(mean)).double()
    beta = state.get(f"{norm}.bias", torch.zeros_like(mean)).double()
    scale = gamma / (var + eps).sqrt()
    folded = weight.double() * scale[:, None, None, None], beta + (bias.double() - mean) * scale
    weight, bias = (value.to(weight.dtype) for value in folded)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise InputError(
            f"{conv}.weight: with its BatchNorm worked in, values are beyond the range of {weight.dtype}; "
            "convert a checkpoint with float32 weights"
        )
    return weight, bias
