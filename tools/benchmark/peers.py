# SPDX-License-Identifier: Apache-2.0
"""What benchmark_op.py compares the operator with: the upsamplers it replaces and other ways to write it."""

from dataclasses import dataclass
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from benchmark.measure import Row
from torch import Tensor, nn

from mmcarafe.layers import CARAFE
from mmcarafe.ops import carafe, implementations

# Forms that unfold hold k*k copies of the map: elements of the features up to which they are run.
LARGEST = 6 * 10**6


@dataclass
class Inputs:
    """Tensors of one shape: features [N, C, H, W] and normalised masks [N, k*k, s*H, s*W]."""

    features: Tensor
    masks: Tensor
    k: int = 5
    scale: int = 2

    @classmethod
    def draw(
        cls,
        shape: tuple[int, ...],
        layout: str,
        requires_grad: bool,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Inputs":
        """Random tensors in the layout "contiguous" or "channels_last"."""
        N, _, H, W = shape
        options = dict(device=device, dtype=dtype)
        tensors = torch.randn(shape, **options), torch.randn(N, 25, 2 * H, 2 * W, **options).softmax(1)
        if layout == "channels_last":
            tensors = [t.contiguous(memory_format=torch.channels_last) for t in tensors]
        return cls(*(t.requires_grad_(requires_grad) for t in tensors))

    @property
    def flops(self) -> int:
        """Of one forward call: a multiplication and an addition for each of the k*k terms."""
        return 2 * self.k**2 * self.features.numel() * self.scale**2

    @property
    def output_bytes(self) -> int:
        """Size of the output."""
        return prod(self.features.shape) * self.scale**2 * self.features.element_size()

    def output_grad(self) -> Tensor:
        """A gradient of the output in the features' layout."""
        return torch.ones_like(F.interpolate(self.features.detach(), scale_factor=self.scale))


def our_rows(inputs: Inputs) -> dict[str, Row]:
    """The operator with each implementation this machine has, and the whole layer with the best."""
    layer = CARAFE(inputs.features.shape[1]).requires_grad_(inputs.features.requires_grad)

    def call() -> Tensor:
        return carafe(inputs.features, inputs.masks, inputs.k, 1, inputs.scale)

    rows = {f"mmcarafe {name}": Row(call, name) for name in implementations("cpu")}
    return rows | {"CARAFE layer": Row(lambda: layer(inputs.features))}


def replaced_rows(inputs: Inputs) -> dict[str, Row]:
    """The upsamplers that CARAFE replaces, on the same features."""
    x, s, channels = inputs.features, inputs.scale, inputs.features.shape[1]
    deconv = nn.ConvTranspose2d(channels, channels, s, s).to(x).requires_grad_(x.requires_grad)
    conv = nn.Conv2d(channels, channels * s * s, 3, padding=1).to(x).requires_grad_(x.requires_grad)
    return {
        "nearest": Row(lambda: F.interpolate(x, scale_factor=s, mode="nearest")),
        "bilinear": Row(lambda: F.interpolate(x, scale_factor=s, mode="bilinear", align_corners=False)),
        "deconvolution": Row(lambda: deconv(x)),
        "pixel shuffle": Row(lambda: F.pixel_shuffle(conv(x), s)),
    }


def unfold_at_target(x: Tensor, masks: Tensor, k: int, s: int) -> Tensor:
    """Upsample, unfold, einsum: the form most projects copy; needs dilation s to see source neighbours."""
    N, C, H, W = x.shape
    windows = F.unfold(F.interpolate(x, scale_factor=s), k, dilation=s, padding=k // 2 * s)
    return torch.einsum("nckhw,nkhw->nchw", windows.view(N, C, k * k, s * H, s * W), masks)


def unfold_interpolate(x: Tensor, masks: Tensor, k: int, s: int) -> Tensor:
    """Unfold at source size, then interpolate, multiply and sum."""
    N, C, H, W = x.shape
    windows = F.interpolate(F.unfold(x, k, padding=k // 2).view(N, C * k * k, H, W), scale_factor=s)
    return (windows.view(N, C, k * k, s * H, s * W) * masks[:, None]).sum(2)


def unfold_at_source(x: Tensor, masks: Tensor, k: int, s: int) -> Tensor:
    """Unfold at source size, einsum over the taps, shuffle the sub-pixels into place."""
    N, C, H, W = x.shape
    windows = F.unfold(x, k, padding=k // 2).view(N, C, k * k, H, W)
    kernels = masks.view(N, k * k, H, s, W, s)
    return torch.einsum("nckhw,nkhiwj->nchiwj", windows, kernels).reshape(N, C, s * H, s * W)


def shift_and_add(x: Tensor, masks: Tensor, k: int, s: int) -> Tensor:
    """One multiply-add of the shifted, upsampled map for each tap."""
    H, W = x.shape[2:]
    padded = F.pad(x, [k // 2] * 4)
    out = 0
    for t, (dy, dx) in enumerate(product(range(k), repeat=2)):
        shifted = F.interpolate(padded[:, :, dy : dy + H, dx : dx + W], scale_factor=s)
        out = out + shifted * masks[:, t, None]
    return out


FORMS = {
    "upsample, unfold, einsum": unfold_at_target,
    "unfold, interpolate, sum": unfold_interpolate,
    "unfold, einsum": unfold_at_source,
    "shift and add": shift_and_add,
}


def pytorch_rows(inputs: Inputs, compiled: bool) -> dict[str, Row]:
    """Forms written in PyTorch alone, eager or under torch.compile."""
    if inputs.features.numel() > LARGEST:
        return {}
    args = inputs.features, inputs.masks, inputs.k, inputs.scale
    if not compiled:
        return {name: Row(lambda form=form: form(*args)) for name, form in FORMS.items()}
    forms = {f"{name}, compiled": torch.compile(form, dynamic=False) for name, form in FORMS.items()}
    return {name: Row(lambda form=form: form(*args)) for name, form in forms.items()}


def mmcv_row(inputs: Inputs) -> Row | str:
    """mmcv's operator, or what it says where it does not run."""
    from mmcv.ops import carafe as mmcv_carafe

    row = Row(lambda: mmcv_carafe(inputs.features, inputs.masks, inputs.k, 1, inputs.scale))
    try:
        row.call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return row
