# SPDX-License-Identifier: Apache-2.0
"""The DLU module: predicts one reassembly kernel for each source pixel, and samples between them."""

from torch import Tensor, nn

from mmcarafe.ops import carafe

from .normalize import normalize_kernels
from .optional_mmengine import initialize, register
from .sampling import sample
from .upsampler import Upsampler

PUBLISHED = (
    dict(type="Xavier", layer="Conv2d", distribution="uniform"),
    dict(type="Normal", std=0.001, bias=0, override=dict(name="kernel_space_generator")),
    dict(type="Constant", val=0, override=dict(name="conv_offset")),
)


@register
class DLU(Upsampler):
    """Dynamic lightweight upsampling (arXiv 2410.22139): CARAFE with fewer kernels to predict.

    Predicts one normalised kernel of ``up_kernel`` x ``up_kernel`` for each source pixel instead of
    ``scale_factor**2``, samples these kernels bilinearly at predicted offsets for each output pixel, and
    reassembles the input with them. Parameters are named as in the authors' code.

    Args:
        channels (int): C, channels of the input and of the output.
        scale_factor (int): how many times larger the output is. Default: 2.
        up_kernel (int): side of the reassembly kernel, odd. Default: 5.
        up_group (int): channel groups, each with kernels and offsets of its own; divides ``channels``. The
            authors' code runs with 1 only. Default: 1.
        encoder_kernel (int): side of the convolutions that predict kernels and offsets, odd. Default: 3.
        encoder_dilation (int): dilation of these. Default: 1.
        compressed_channels (int): channels left by the channel compressor. Default: 64.
        init_cfg (dict or list, optional): mmengine initialisation. Default: the authors', Xavier uniform,
            kernels normal with standard deviation 0.001, offsets 0.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is below 1, a kernel is even, or ``up_group`` does not divide ``channels``.

    Example:
        >>> import torch
        >>> from mmcarafe.layers import DLU
        >>> DLU(channels=16)(torch.rand(1, 16, 24, 24)).shape
        torch.Size([1, 16, 48, 48])
    """

    __constants__ = (
        "channels",
        "scale_factor",
        "up_kernel",
        "up_group",
        "encoder_kernel",
        "encoder_dilation",
        "compressed_channels",
    )

    def __init__(
        self,
        channels: int,
        scale_factor: int = 2,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg, PUBLISHED)
        self.channels = channels
        self.scale_factor = scale_factor
        self.up_kernel = up_kernel
        self.up_group = up_group
        self.encoder_kernel = encoder_kernel
        self.encoder_dilation = encoder_dilation
        self.compressed_channels = compressed_channels
        self.check_sizes()
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.kernel_space_generator = self._encoder(up_group * up_kernel**2)
        self.conv_offset = self._encoder(2 * up_group * scale_factor**2)
        initialize(self, list(PUBLISHED))

    def _encoder(self, out_channels: int) -> nn.Conv2d:
        padding = (self.encoder_kernel - 1) // 2 * self.encoder_dilation
        return nn.Conv2d(
            self.compressed_channels,
            out_channels,
            self.encoder_kernel,
            padding=padding,
            dilation=self.encoder_dilation,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Upsample: Tensor[N, channels, H, W] -> Tensor[N, channels, scale_factor * H, scale_factor * W]."""
        self.check_input(x)
        compressed = self.channel_compressor(x)
        kernels = normalize_kernels(self.kernel_space_generator(compressed), self.up_group)
        masks = sample(kernels, self.conv_offset(compressed), self.scale_factor, self.up_group)
        return carafe(x, masks.to(x.dtype), self.up_kernel, self.up_group, self.scale_factor)
