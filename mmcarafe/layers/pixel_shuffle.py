# SPDX-License-Identifier: Apache-2.0
"""Pixel shuffle for empty batches too, as a function and as the upsampler of that name."""

from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn


def pixel_shuffle(x: Tensor, scale: int) -> Tensor:
    """Shuffle as ``F.pixel_shuffle`` does, with a gradient for an empty batch too, which torch's has not."""
    if x.numel() == 0:
        N, C, H, W = x.shape
        return x.reshape(N, C // scale**2, scale * H, scale * W)
    return F.pixel_shuffle(x, scale)


@cache
def pixel_shuffle_pack() -> type[nn.Module]:
    """Make mmcv's ``PixelShufflePack`` for empty batches too; on demand, as the layer needs no mmcv."""
    from mmcv.cnn.bricks.upsample import PixelShufflePack

    class PixelShuffle(PixelShufflePack):
        """Convolution to ``scale_factor**2`` times the channels, then pixel shuffle."""

        def forward(self, x: Tensor) -> Tensor:
            """Upsample Tensor[N, C, H, W] to Tensor[N, out_channels, scale_factor * H, scale_factor * W]."""
            return pixel_shuffle(self.upsample_conv(x), self.scale_factor)

    PixelShuffle.__qualname__ = "PixelShuffle"  # where pickle looks for it
    return PixelShuffle


def __getattr__(name: str) -> type[nn.Module]:
    if name == "PixelShuffle":
        return pixel_shuffle_pack()
    raise AttributeError(f"module {__name__} has no attribute {name}")
