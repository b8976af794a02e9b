# SPDX-License-Identifier: Apache-2.0
"""The weights of a convolution and of the BatchNorm behind it, as those of one convolution."""

import torch
from common import InputError
from torch import Tensor


def check_values(state: dict[str, Tensor], conv: str, norm: str) -> None:
    """Raise InputError unless the values are those of a convolution and of a BatchNorm behind it."""
    # what is not would be broadcast or cast, to weights that load and are wrong
    weight = state[f"{conv}.weight"]
    if weight.ndim != 4 or not weight.is_floating_point():
        raise InputError(
            f"{conv}.weight: expected the weights of a convolution, floating-point numbers of shape "
            f"(output channels, input channels, height, width), got {_kind(weight)}"
        )
    norms = (f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
    for key in (f"{conv}.bias", *norms):
        value = state.get(key)
        if value is not None and (value.shape != weight.shape[:1] or not value.is_floating_point()):
            raise InputError(
                f"{key}: expected a floating-point number for each of the {len(weight)} output channels of "
                f"{conv}, got {_kind(value)}"
            )
        if value is not None and key.endswith(".running_var") and (value < 0).any():
            raise InputError(f"{key}: expected variances, which are 0 or more, got {float(value.min()):g}")


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


def fold(state: dict[str, Tensor], conv: str, norm: str, eps: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the evaluation-mode BatchNorm behind it worked in."""
    weight = state[f"{conv}.weight"]
    bias = state.get(f"{conv}.bias", weight.new_zeros(len(weight)))
    if f"{norm}.running_var" not in state:
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
