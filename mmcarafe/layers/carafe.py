# SPDX-License-Identifier: Apache-2.0
"""The CARAFE module: predicts a reassembly kernel for each output pixel, then applies it."""

import math

import torch
from torch import Tensor, nn

from mmcarafe.errors import UpsampleConfigError
from mmcarafe.ops import carafe

from .normalize import normalize_kernels
from .optional_mmengine import initialize, register
from .pixel_shuffle import pixel_shuffle
from .upsampler import Reassembler

# Training starts from a near-uniform average of the neighbourhood (paper, section 3.2).
PUBLISHED = (
    dict(type="Xavier", layer="Conv2d", distribution="uniform"),
    dict(type="Normal", std=0.001, bias=0, override=dict(name="content_encoder")),
)

STARTS = ("average", "nearest")

CENTRE_WEIGHT = 0.95
"""Of the source pixel itself with ``start="nearest"``; docs/where.md has the measurements behind it."""


@register
class CARAFE(Reassembler):
    """Content-Aware ReAssembly of FEatures, a learned upsampler (Wang et al., ICCV 2019, section 3).

    Compresses the channels, predicts ``scale_factor**2`` kernels of ``up_kernel`` x ``up_kernel`` for
    each source pixel, normalises each with a softmax and assembles the output pixels with them.
    Parameters are named as in mmcv's ``CARAFEPack``, so its checkpoints load unchanged.

    Args:
        channels (int): C, channels of the input and of the output.
        scale_factor (int): how many times larger the output is. Default: 2.
        up_kernel (int): side of the reassembly kernel, odd. Default: 5.
        up_group (int): channel groups, each with kernels of its own; divides ``channels``. Default: 1.
        encoder_kernel (int): side of the content encoder's convolution, odd. Default: 3.
        encoder_dilation (int): dilation of that convolution. Default: 1.
        compressed_channels (int): channels left by the channel compressor. Default: 64.
        norm_cfg (dict, optional): norm layer after both convolutions, for instance ``dict(type="BN")``
            (needs mmcv). Default: None, as in the paper.
        act_cfg (dict, optional): activation after both, for instance ``dict(type="ReLU")`` (needs mmcv).
            Default: None, as in the paper.
        init_cfg (dict or list, optional): mmengine initialisation. Default: the paper's, Xavier uniform
            and the content encoder normal with standard deviation 0.001 and bias 0.
        start (str): what a fresh layer does. "average", the paper's: all taps of a kernel weigh nearly the
            same. "nearest": a bias of the content encoder gives the source pixel itself a weight of 0.95, and
            the other taps equal shares of the rest. Each output then differs from nearest interpolation by
            at most 5 % of the range of the source pixels (at borders, and of 0), as long as the input is
            around 1: at 100, the encoder's weights move the kernels. All taps learn from there. It is meant
            for a network that was trained with nearest interpolation. Default: "average".

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is below 1, a kernel is even, ``up_group`` does not divide ``channels``, ``start``
            is another word, or "nearest" together with an argument that its bias does not survive.

    Example:
        >>> import torch
        >>> from mmcarafe.layers import CARAFE
        >>> CARAFE(channels=16)(torch.rand(1, 16, 24, 24)).shape
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
    options = ("start",)

    def __init__(
        self,
        channels: int,
        scale_factor: int = 2,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
        start: str = "average",
    ) -> None:
        super().__init__(init_cfg, PUBLISHED)
        if start not in STARTS:
            raise ValueError(f"start: expected {' or '.join(map(repr, STARTS))}, got {start!r}")
        changing = dict(norm_cfg=norm_cfg, act_cfg=act_cfg, init_cfg=init_cfg)
        given = [name for name, cfg in changing.items() if cfg is not None]
        if start != "average" and given:
            raise ValueError(
                f"start: {start!r} is a bias that {given[0]} would change; leave one of them out"
            )
        self.channels = channels
        self.scale_factor = scale_factor
        self.up_kernel = up_kernel
        self.up_group = up_group
        self.encoder_kernel = encoder_kernel
        self.encoder_dilation = encoder_dilation
        self.compressed_channels = compressed_channels
        self.start = start
        self.check_sizes()
        kernels = up_group * up_kernel**2 * scale_factor**2
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.compressor_post = _norm_act(compressed_channels, norm_cfg, act_cfg)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            kernels,
            encoder_kernel,
            padding=(encoder_kernel - 1) // 2 * encoder_dilation,
            dilation=encoder_dilation,
        )
        self.encoder_post = _norm_act(kernels, norm_cfg, act_cfg)
        initialize(self, list(PUBLISHED))
        self._apply_start()

    def init_weights(self) -> None:
        """Initialise the weights as ``init_cfg`` and ``start`` say, however often it is asked for."""
        super().init_weights()
        self._apply_start()

    @torch.no_grad()
    def _apply_start(self) -> None:
        """Give the kernels' centre taps the bias that makes their softmax CENTRE_WEIGHT, the others none."""
        if self.start == "nearest" and self.up_kernel > 1:  # a kernel of one tap is nearest interpolation
            others = self.up_kernel**2 - 1
            bias = self.get_parameter("content_encoder.bias").view(self.up_group, self.up_kernel**2, -1)
            bias[:, others // 2] = math.log(CENTRE_WEIGHT / (1 - CENTRE_WEIGHT) * others)

    @property
    def last_encoder(self) -> nn.Module:
        """The module whose output :meth:`kernel_normalizer` turns into kernels."""
        return self.encoder_post

    def kernel_normalizer(self, logits: Tensor) -> Tensor:
        """Turn raw encoder output into reassembly kernels that sum to 1 (paper, section 3.2).

        Args:
            logits (Tensor[N, G*k*k*s*s, H, W]): output of the content encoder.

        Returns:
            Tensor[N, G*k*k, s*H, s*W]: one kernel for each output pixel and group.
        """
        return normalize_kernels(pixel_shuffle(logits, self.scale_factor), self.up_group)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample: Tensor[N, channels, H, W] -> Tensor[N, channels, scale_factor * H, scale_factor * W]."""
        self.check_input(x)
        compressed = self.compressor_post(self.channel_compressor(x))
        logits = self.encoder_post(self.content_encoder(compressed))
        masks = self.kernel_normalizer(logits)
        return carafe(x, masks.to(x.dtype), self.up_kernel, self.up_group, self.scale_factor)


def _norm_act(channels: int, norm_cfg: dict | None, act_cfg: dict | None) -> nn.Sequential:
    layers = []
    if norm_cfg is not None or act_cfg is not None:
        try:
            from mmcv.cnn import build_activation_layer, build_norm_layer  # only these options need mmcv
        except ModuleNotFoundError as error:
            raise UpsampleConfigError(f"norm_cfg and act_cfg need mmcv: {error}; leave them out") from error
        if norm_cfg is not None:
            layers.append(build_norm_layer(norm_cfg, channels)[1])
        if act_cfg is not None:
            layers.append(build_activation_layer(act_cfg))
    return nn.Sequential(*layers)
