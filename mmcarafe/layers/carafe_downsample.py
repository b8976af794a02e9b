# SPDX-License-Identifier: Apache-2.0
"""CARAFE++'s downsampling module: predicts a reassembly kernel for each output pixel, then applies it."""

from torch import Tensor, nn

from mmcarafe.ops import carafe_downsample

from .carafe import PUBLISHED
from .normalize import normalize_kernels
from .optional_mmengine import initialize, register
from .upsampler import Reassembler


@register
class CARAFEDownsample(Reassembler):
    """The learned downsampler of CARAFE++ (Wang et al., arXiv 2012.04733).

    As :class:`CARAFE`, but the content encoder has a stride, and predicts one kernel for each output pixel.

    Args:
        channels (int): C, channels of the input and of the output.
        scale_factor (int): how many times smaller the output is, rounded up. Default: 2.
        down_kernel (int): side of the reassembly kernel, odd. Default: 5.
        down_group (int): channel groups, each with kernels of its own; divides ``channels``. Default: 1.
        encoder_kernel (int): side of the content encoder's convolution, odd. Default: 3.
        encoder_dilation (int): dilation of that convolution. Default: 1.
        compressed_channels (int): channels left by the channel compressor. Default: 16.
        init_cfg (dict or list, optional): mmengine initialisation. Default: :class:`CARAFE`'s.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is below 1, a kernel is even, or ``down_group`` does not divide ``channels``.

    Example:
        >>> import torch
        >>> from mmcarafe.layers import CARAFEDownsample
        >>> CARAFEDownsample(channels=16)(torch.rand(1, 16, 25, 24)).shape
        torch.Size([1, 16, 13, 12])
    """

    downsamples = True
    __constants__ = (
        "channels",
        "scale_factor",
        "down_kernel",
        "down_group",
        "encoder_kernel",
        "encoder_dilation",
        "compressed_channels",
    )

    def __init__(
        self,
        channels: int,
        scale_factor: int = 2,
        down_kernel: int = 5,
        down_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 16,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg, PUBLISHED)
        self.channels = channels
        self.scale_factor = scale_factor
        self.down_kernel = down_kernel
        self.down_group = down_group
        self.encoder_kernel = encoder_kernel
        self.encoder_dilation = encoder_dilation
        self.compressed_channels = compressed_channels
        self.check_sizes()
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            down_group * down_kernel**2,
            encoder_kernel,
            stride=scale_factor,
            padding=(encoder_kernel - 1) // 2 * encoder_dilation,
            dilation=encoder_dilation,
        )
        initialize(self, list(PUBLISHED))

    def kernel_normalizer(self, logits: Tensor) -> Tensor:
        """Turn raw encoder output into reassembly kernels that sum to 1: Tensor[N, G*k*k, H, W] of both."""
        return normalize_kernels(logits, self.down_group)

    def forward(self, x: Tensor) -> Tensor:
        """Downsample Tensor[N, C, H, W] -> Tensor[N, C, ceil(H / scale_factor), ceil(W / scale_factor)]."""
        self.check_input(x)
        masks = self.kernel_normalizer(self.content_encoder(self.channel_compressor(x)))
        return carafe_downsample(x, masks.to(x.dtype), self.down_kernel, self.down_group, self.scale_factor)
