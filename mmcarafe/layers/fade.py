# SPDX-License-Identifier: Apache-2.0
"""The FADE module: predicts reassembly kernels from the map and from its guide, and lets a gate mix both."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcarafe.ops import carafe

from .normalize import normalize_kernels
from .optional_mmengine import initialize, register
from .upsampler import Upsampler

PUBLISHED = (dict(type="Xavier", layer="Conv2d", distribution="uniform"),)
LATER_NAMES = {
    "compressor_en.weight": "conv1_en.weight",
    "compressor_en.bias": "conv1_en.bias",
    "compressor_de.weight": "conv1_de.weight",
    "content_encoder.weight": "conv2_kernels",
    "content_encoder.bias": "conv2_bias",
}
"""Parameters of ``ker_generator`` in the authors' FADE_L2H.py and forks, and what FADE_H2L.py calls them."""


class SemiShift(nn.Module):
    """Kernel logits from guide and map: compressed apart, encoded by one shared 3 x 3 convolution."""

    def __init__(self, channels: int, guide_channels: int, kernels: int, compressed: int, lite: bool) -> None:
        super().__init__()
        self.conv1_en = nn.Conv2d(guide_channels, compressed, 1)
        self.conv1_de = nn.Conv2d(channels, compressed, 1, bias=False)
        self.conv2_kernels = nn.Parameter(torch.empty(kernels, 1 if lite else compressed, 3, 3))
        self.conv2_bias = nn.Parameter(torch.empty(kernels))

    def init_weights(self) -> None:
        """Initialise the shared convolution, which mmengine's rules for layers do not reach."""
        nn.init.xavier_normal_(self.conv2_kernels)
        nn.init.zeros_(self.conv2_bias)

    def _encode(self, x: Tensor) -> Tensor:
        groups = x.shape[1] // self.conv2_kernels.shape[1]
        return F.conv2d(x, self.conv2_kernels, self.conv2_bias, padding=1, groups=groups)

    def forward(self, x: Tensor, guide: Tensor, scale: int) -> Tensor:
        """Return logits, Tensor[N, k*k, scale * H, scale * W]; the shared bias counts twice."""
        coarse = self._encode(self.conv1_de(x))
        return self._encode(self.conv1_en(guide)) + F.interpolate(coarse, scale_factor=scale)


@register
class FADE(Upsampler):
    """Fusing the assets of decoder and encoder (Lu et al., ECCV 2022, arXiv 2207.10392). Guided.

    The reassembly kernels are predicted from the guide (the encoder's map) and from the input (the
    decoder's), enlarged; a gate, predicted from the input, mixes the guide with what they reassemble:
    ``gate * guide + (1 - gate) * carafe(x)``. Parameters are named as in the authors' FADE_H2L.py; state
    dicts with the names of their FADE_L2H.py, which computes the same, are loaded too.

    Args:
        channels (int): C, channels of the input and of the output.
        guide_channels (int): channels of the guide; with the gate, C.
        scale_factor (int): how many times larger the output is. Default: 2.
        up_kernel (int): k, side of the reassembly kernel, odd. Default: 5.
        compressed_channels (int): channels of both maps before the shared convolution; not used by
            FADE-Lite. Default: 64.
        gate (bool): whether the guide is mixed in; without, the result is what is reassembled.
            Default: True.
        lite (bool): FADE-Lite (arXiv 2407.13500): compresses to k*k channels, and the shared convolution is
            depthwise. Default: False.
        init_cfg (dict or list, optional): mmengine initialisation of the 1 x 1 convolutions; the shared one
            is Xavier normal. Default: the authors', Xavier uniform.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is below 1, the kernel is even, or a gate is to mix different channels.

    Example:
        >>> import torch
        >>> from mmcarafe.layers import FADE
        >>> FADE(16, guide_channels=16)(torch.rand(1, 16, 24, 24), torch.rand(1, 16, 48, 48)).shape
        torch.Size([1, 16, 48, 48])
    """

    guided = True
    __constants__ = ("channels", "guide_channels", "scale_factor", "up_kernel", "compressed_channels")
    options = ("gate", "lite")

    def __init__(
        self,
        channels: int,
        guide_channels: int,
        scale_factor: int = 2,
        up_kernel: int = 5,
        compressed_channels: int = 64,
        gate: bool = True,
        lite: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg, PUBLISHED)
        self.channels = channels
        self.guide_channels = guide_channels
        self.scale_factor = scale_factor
        self.up_kernel = up_kernel
        self.compressed_channels = compressed_channels
        self.gate = gate
        self.lite = lite
        self.check_sizes()
        if gate and channels != guide_channels:
            raise ValueError(
                f"gate: expected a guide of {channels} channels, as it is mixed with the result, got "
                f"{guide_channels}; set gate=False"
            )
        kernels = up_kernel**2
        compressed = kernels if lite else compressed_channels
        if gate:
            self.gate_generator = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, 1, 1)))
        self.kernel_generator = SemiShift(channels, guide_channels, kernels, compressed, lite)
        initialize(self, list(PUBLISHED))
        self.kernel_generator.init_weights()

    def init_weights(self) -> None:
        """Initialise the weights as ``init_cfg`` says, however often an enclosing module asks for it."""
        self.kernel_generator.init_weights()
        super().init_weights()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        for later, name in LATER_NAMES.items():
            if (given := f"{prefix}ker_generator.{later}") in state_dict:
                state_dict[f"{prefix}kernel_generator.{name}"] = state_dict.pop(given)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Upsample Tensor[N, channels, H, W] to the size of the guide.

        Args:
            x (Tensor[N, channels, H, W]): the map to upsample.
            guide (Tensor[N, guide_channels, scale_factor * H, scale_factor * W]): the map it joins.

        Returns:
            Tensor[N, channels, scale_factor * H, scale_factor * W].
        """
        self.check_input(x, guide)
        masks = normalize_kernels(self.kernel_generator(x, guide, self.scale_factor), 1)
        out = carafe(x, masks.to(x.dtype), self.up_kernel, 1, self.scale_factor)
        if not self.gate:
            return out
        gate = F.interpolate(self.gate_generator(x), scale_factor=self.scale_factor).sigmoid()
        return gate * guide + (1 - gate) * out
