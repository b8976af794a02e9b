# SPDX-License-Identifier: Apache-2.0
"""The weights of a convolution and of the BatchNorm behind it, as those of one convolution."""

from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mmcarafe.errors import InputError

NORM_VALUES = ("running_mean", "running_var", "weight", "bias")


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
    for name in NORM_VALUES:
        _check_channels(state, conv, f"{norm}.{name}")
    variances = state[f"{norm}.running_var"]
    if len(negative := variances[variances < 0]):
        raise InputError(f"{norm}.running_var: expected variances, which are 0 or more, got {negative[0]:g}")


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


def fold(state: dict[str, Tensor], conv: str, norm: str | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution, with the BatchNorm behind it, if any, worked in.

    Raises:
        InputError: the numbers are beyond the range of the weights' dtype.
    """
    weight = state[f"{conv}.weight"]
    bias = state.get(f"{conv}.bias", weight.new_zeros(len(weight)))
    if not norm:
        return weight, bias
    values = (state.get(f"{norm}.{name}") for name in NORM_VALUES)
    mean, var, gamma, beta = (value if value is None else value.double() for value in values)
    folded = fuse_conv_bn_weights(weight.double(), bias.double(), mean, var, eps, gamma, beta)
    weight, bias = (value.detach().to(weight.dtype) for value in folded)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise InputError(
            f"{conv}.weight: with its BatchNorm worked in, values are beyond the range of {weight.dtype}; "
            "convert a checkpoint with float32 weights"
        )
    return weight, bias
