# SPDX-License-Identifier: Apache-2.0
"""Inputs of the benchmark, and the operator written in plain PyTorch in four ways."""

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


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
        """Return random tensors in the layout "contiguous" or "channels_last"."""
        N, _, H, W = shape
        options = dict(device=device, dtype=dtype)
        tensors = torch.randn(shape, **options), torch.randn(N, 25, 2 * H, 2 * W, **options).softmax(1)
        if layout == "channels_last":
            tensors = [t.contiguous(memory_format=torch.channels_last) for t in tensors]
        return cls(*(t.requires_grad_(requires_grad) for t in tensors))

    @property
    def flops(self) -> int:
        """Operations of one forward call: a multiplication and an addition for each of the k*k terms."""
        return 2 * self.k**2 * self.features.numel() * self.scale**2

    @property
    def output_bytes(self) -> int:
        """Size of the output."""
        return self.features.numel() * self.scale**2 * self.features.element_size()

    def output_grad(self) -> Tensor:
        """Return a gradient of the output in the features' layout."""
        return torch.ones_like(F.interpolate(self.features.detach(), scale_factor=self.scale))


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
    """Add up the shifted, upsampled map times its mask, one for each tap."""
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
